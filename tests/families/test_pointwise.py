# SPDX-License-Identifier: Apache-2.0
"""Laws of the compiled pointwise kernel: it is a product of matrices, and of the same bits on any number of threads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omniconv.core.library import absent
from omniconv.core.register import _NATIVE
from tolerance import assert_close, assert_equal

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())
TYPES = (torch.float32, torch.bfloat16)
# Few channels, whose weights' gradient is summed in parts of the positions; about the width of tiles; many; one.
PROBLEMS = (
    (4, 5, 7, (70, 70)),
    (2, 3, 2, (120, 90)),
    (2, 64, 64, (28, 28)),
    (3, 300, 40, (7, 9)),
    (8, 33, 512, (4, 4)),
    (1, 512, 17, (400,)),
    (2, 31, 33, (6, 7, 8)),
    (16, 1, 1, (64, 64)),
)


def native():
    return _NATIVE["conv", "native"]


def numbers(dim, stride=1):
    return (dim, *[stride] * dim, 2 * dim, *[0] * (2 * dim), dim, *[1] * dim, 1, 0)


def laid(tensor, inside):
    return tensor.transpose(1, -1).contiguous().transpose(1, -1) if inside else tensor


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(problem, dtype, inside):
    batch, ins, outs, sizes = problem
    x, grad = (laid(torch.randn(batch, c, *sizes), inside).to(dtype) for c in (ins, outs))
    weight, bias = torch.randn(outs, ins, *[1] * len(sizes)).to(dtype), torch.randn(outs).to(dtype)
    found = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        tensors, flat = (x, weight, bias), numbers(len(sizes))
        found.append((native().raw(*tensors, flat), *native().raw_backward(grad, *tensors, flat, 7)))
    torch.set_num_threads(1)
    for others in found[1:]:
        for which, (one, other) in enumerate(zip(found[0], others, strict=True)):
            assert torch.equal(one, other), f"tensor {which} has other bits"
    wide = x.double().flatten(2), weight.double().flatten(1), grad.double().flatten(2)
    want = wide[1] @ wide[0] + bias.double()[:, None], wide[1].mT @ wide[2], (wide[2] @ wide[0].mT).sum(0)
    for one, other in zip(found[0], (*want, wide[2].sum((0, 2))), strict=True):
        assert_close(one, other.view(one.shape))


@settings(max_examples=150)
@given(st.data())
def test_whole_numbers_are_exact_and_positions_between_are_left_out(data):
    dim, stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    batch, ins, outs = data.draw(st.integers(0, 3)), data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    sizes, inside = tuple(data.draw(st.integers(1, 9)) for _ in range(dim)), data.draw(st.booleans())
    x = laid(torch.randint(-3, 4, (batch, ins, *sizes)).float(), inside)
    met = x[(slice(None), slice(None), *[slice(None, None, stride)] * dim)]
    weight, bias = torch.randint(-3, 4, (outs, ins)).float(), torch.randint(-9, 10, (outs,)).float()
    grad = laid(torch.randint(-3, 4, (batch, outs, *met.shape[2:])).float(), inside)
    tensors = x, weight.view(outs, ins, *[1] * dim), bias
    assert_equal(
        native().raw(*tensors, numbers(dim, stride)),
        torch.einsum("oc,nc...->no...", weight, met) + bias.view(-1, *[1] * dim),
    )
    of_input, of_weight, of_bias = native().raw_backward(grad, *tensors, numbers(dim, stride), 7)
    want = torch.zeros_like(x)
    want[(slice(None), slice(None), *[slice(None, None, stride)] * dim)] = torch.einsum("oc,no...->nc...", weight, grad)
    assert_equal(of_input, want)
    assert_equal(of_weight.flatten(1), torch.einsum("nop,ncp->oc", grad.flatten(2), met.flatten(2)))
    assert_equal(of_bias, grad.flatten(2).sum((0, 2)))
