# SPDX-License-Identifier: Apache-2.0
"""Where an accelerated network goes: copies and files, compilers and exports, threads, gradients, other types."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from tempfile import TemporaryDirectory

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import omniconv
from convert.accelerated_steps import X, accelerated, block, conv, norm
from omniconv.ops.conv.prepacked import PrepackedConv
from tolerance import assert_close


class Net(nn.Module):
    """Every layer that there is."""

    def __init__(self):
        super().__init__()
        self.stem, self.last = block(), conv(8, 6)
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), norm(8))
        self.mixed, self.grown = nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(6, 4, 2, 2)
        self.wide = nn.Sequential(
            nn.Conv2d(8, 16, 1), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 1)
        )
        self.head = nn.Linear(4, 5)

    def forward(self, x, scale: float = 1.0, mask=None):
        y = self.stem(x)
        y = self.mixed(self.middle(y).relu()) + y
        y = y + self.wide(y)
        y = F.gelu(self.grown(F.silu(self.last(y))))
        return self.head(y.mean((2, 3))) * scale


LAYERS = ["PrepackedConv", "DepthwiseSeparableConv2d", "InvertedResidual2d", "PrepackedConv", "FollowedConv", "Linear"]


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(0)
    net = Net().eval()
    x = torch.randn(X)
    return net, accelerated(net, x, changes=LAYERS), x, net(x).detach()


def stored(fast):
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def reloaded(fast):
    with TemporaryDirectory() as folder:
        fast.save(f"{folder}/network.pt")
        return omniconv.load(f"{folder}/network.pt")


def exported(fast, x, **options):
    with torch.no_grad():
        return torch.export.export(fast, (x,), **options).module()


WAYS = {
    "as it is": lambda fast, x: fast,
    "a deep copy": lambda fast, x: copy.deepcopy(fast),
    "pickled": lambda fast, x: pickle.loads(pickle.dumps(fast)),  # noqa: S301
    "stored": lambda fast, x: stored(fast),
    "a file without code": lambda fast, x: reloaded(fast),
    "compiled": lambda fast, x: torch.compile(fast, backend="eager"),
    "compiled whole, with gradients": lambda fast, x: torch.compile(fast, backend="aot_eager", fullgraph=True),
    "exported": exported,
    "exported by its steps": lambda fast, x: exported(fast, x, strict=False),
    "mapped": lambda fast, x: torch.func.vmap(lambda one: fast(one[None])[0]),
    "within what is accelerated": lambda fast, x: accelerated(
        nn.Sequential(block(), nn.Conv2d(8, 3, 1), fast).eval(), x
    ).network.get_submodule("graph.2"),
}


@pytest.mark.parametrize("warm", [False, True], ids=["new", "replayed"])
@pytest.mark.parametrize("name", WAYS)
def test_where_a_network_goes(nets, name, warm):
    _, fast, x, wanted = nets
    fast = copy.deepcopy(fast)
    with torch.no_grad():
        for _ in range(4 * warm):
            fast(x)
        model = WAYS[name](fast, x)
        for _ in range(4):
            assert_close(model(x), wanted)


def test_other_types_and_autocast(nets):
    net, fast, x, wanted = nets
    with torch.no_grad():
        wide = copy.deepcopy(fast).double()(x.double())
        assert wide.dtype == torch.float64
        assert_close(wide, wanted, dtype=torch.float32)
        narrow = copy.deepcopy(fast).bfloat16()(x.bfloat16())
        assert_close(narrow, wanted.double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, theirs = fast(x), net(x)
        assert ours.dtype == theirs.dtype == torch.bfloat16
        assert_close(ours, wanted.double())
        assert_close(fast(x), wanted)


def test_gradients_of_the_input(nets):
    net, fast, x, _ = nets
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    first, second = (
        torch.autograd.grad(model(leaf).square().sum(), leaf)[0]
        for model, leaf in zip((net, fast), leaves, strict=True)
    )
    assert_close(second, first)
    tangents = [torch.func.jvp(model, (x,), (x,))[1] for model in (net, fast)]
    assert_close(tangents[1], tangents[0].detach())


def test_two_threads(nets):
    net, fast, *_ = nets
    fast, wrong = copy.deepcopy(fast), []

    def run(seed):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for at in range(40):
                x = torch.randn(1 + at % 2, 3, 6 + at % 3, 7, generator=generator)
                try:
                    assert_close(fast(x), net(x))
                except AssertionError as error:
                    wrong.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_hooks_of_new_layers_are_called(nets):
    _, fast, x, wanted = nets
    fast, seen = copy.deepcopy(fast), []
    with torch.no_grad():
        for _ in range(4):
            fast(x)
        parts = [module for module in fast.modules() if isinstance(module, PrepackedConv)]
        parts[0].register_forward_hook(lambda module, given, result: seen.append(result.shape))
        assert_close(fast(x), wanted)
    assert seen == [(2, 8, 7, 9)]
