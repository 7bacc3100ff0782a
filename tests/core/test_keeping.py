# SPDX-License-Identifier: Apache-2.0
"""Memory of large results is kept while somebody asks for it, and tensors in it are like any other."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

from omniconv.core.keeping import KeptMemory, held, kept_empty
from omniconv.core.library import absent

pytestmark = pytest.mark.skipif(
    bool(absent()) or torch.__version__ < "2.11", reason=absent() or "torch hands out memory of others from 2.11 on"
)
MIB = 1 << 20


def result(mib, dtype=torch.float32):
    return kept_empty(torch.empty(0, dtype=dtype), mib * MIB // dtype.itemsize)


@pytest.fixture(autouse=True)
def nothing_before():
    gc.collect()  # networks that were trained before
    assert held() == 0
    yield
    gc.collect()
    assert held() == 0


def test_memory_comes_again_while_one_asks():
    kept = KeptMemory()
    first = result(3)
    at = first.data_ptr()
    assert held() == 3 * MIB
    del first
    assert held() == 3 * MIB
    again = result(3)
    assert again.data_ptr() == at
    narrower, other = result(1), result(3)
    assert other.data_ptr() != at
    assert held() == 7 * MIB
    del again, narrower, other, kept
    assert held() == 0


def test_nothing_is_kept_unasked():
    tensor = result(3)
    assert held() == 0
    kept = KeptMemory()
    small = kept_empty(tensor, 1000)
    assert held() == 0
    del small, kept


def test_a_little_wider_memory_is_taken_and_much_wider_is_not():
    kept = KeptMemory()
    wide = result(16)
    at = wide.data_ptr()
    del wide
    assert result(15).data_ptr() == at
    narrow = result(4)
    assert narrow.data_ptr() != at
    del narrow, kept


def test_what_is_held_is_bounded_by_what_was_in_use():
    kept = KeptMemory()
    for mib in range(1, 40, 5):
        alive = [result(mib) for _ in range(3)]
        assert 3 * mib * MIB <= held() <= 3 * mib * MIB * 5 // 4
        del alive
    del kept


def test_results_outlive_who_asked():
    kept = KeptMemory()
    tensor = result(2).fill_(3)
    del kept
    assert held() == 2 * MIB
    assert bool((tensor == 3).all())
    del tensor


def test_copies_and_pickles_ask_for_themselves():
    kept = KeptMemory()
    others = [copy.deepcopy(kept), copy.copy(kept), pickle.loads(pickle.dumps(kept))]  # noqa: S301
    del kept
    for _ in range(3):
        result(2)
        assert held() == 2 * MIB
        others.pop()
    assert held() == 0


def test_tensors_are_like_any_other():
    kept = KeptMemory()
    tensor = result(2).fill_(1)
    assert torch.equal(pickle.loads(pickle.dumps(tensor)), tensor)  # noqa: S301
    seen = tensor.numpy()
    seen[5] = 7
    assert tensor[5] == 7
    assert tensor.share_memory_().is_shared()
    assert tensor[5] == 7
    narrow = result(2, torch.bfloat16)
    assert narrow.dtype == torch.bfloat16
    assert narrow.is_contiguous()
    assert narrow.data_ptr() % 64 == 0
    with pytest.raises(RuntimeError, match="resize"):
        result(1).resize_(MIB)
    del seen, tensor, narrow, kept


def test_results_of_layers_and_their_gradients():
    kept = KeptMemory()
    x = torch.randn(8, 32, 64, 64, requires_grad=True)
    layer = nn.Conv2d(32, 64, 1).requires_grad_(requires_grad=False)
    want = torch.autograd.grad(layer(x).sigmoid().sum(), x)[0]
    conv = torch.ops.aten.convolution_overrideable
    places = set()
    for _ in range(4):
        output = conv(x, layer.weight, layer.bias, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        places.add(output.data_ptr())
        (found,) = torch.autograd.grad(output.sigmoid().sum(), x)
        torch.testing.assert_close(found, want)
        del output, found
    assert len(places) == 1
    assert held() == (8 + 4) * MIB
    del kept


def test_threads_share_it():
    kept, wrong = KeptMemory(), []

    def work(number):
        for _ in range(200):
            tensor = result(1).fill_(number)
            if not bool((tensor == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert held() <= 8 * MIB * 5 // 4  # each has two when the second comes before the first goes
    del kept


def test_a_process_ends_with_tensors_in_it():
    code = """
import torch
from omniconv.core.keeping import KeptMemory, kept_empty
kept, tensors = KeptMemory(), [kept_empty(torch.empty(0), 1 << 20) for _ in range(3)]
torch.kept = tensors.pop()
del tensors[0]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_wrong_sizes_are_refused():
    for sizes, what in (((-1,), "negative"), ((1,) * 9, "at most 8")):
        with pytest.raises(RuntimeError, match=what):
            kept_empty(torch.empty(0), *sizes)
    with pytest.raises(RuntimeError):
        kept_empty(torch.empty(0, dtype=torch.float64), 3)
