# SPDX-License-Identifier: Apache-2.0
"""``benchmarks/networks.py``: what it times computes what the network computes, and every step has its kind."""

from __future__ import annotations

import copy
import importlib
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import omniconv
from omniconv.core.library import absent
from omniconv.ops.conv import prepacked
from tolerance import assert_close

efficientnet = pytest.importorskip("efficientnet_lite_pytorch")
networks = importlib.import_module("networks")


class Small(nn.Module):
    """A convolution, a depthwise one that pads one side more, and a pointwise one; two norms, and a sum."""

    def __init__(self):
        super().__init__()
        padding = efficientnet.utils.get_same_padding_conv2d(image_size=8)
        self.first, self.norm = padding(3, 4, kernel_size=3, bias=False), nn.BatchNorm2d(4)
        self.depthwise, self.other_norm = padding(4, 4, kernel_size=3, stride=2, groups=4), nn.BatchNorm2d(4)
        self.last, self.activation = nn.Conv2d(4, 4, 1), nn.ReLU6()

    def forward(self, x):
        x = self.activation(self.other_norm(self.depthwise(self.norm(self.first(x)))))
        return x + self.last(x)


def small():
    model = Small()
    for _ in range(3):
        model(torch.randn(8, 3, 8, 8))
    return model.eval().double()


def test_a_folded_model_has_no_norms_and_computes_the_same():
    model, x = small(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before = copy.deepcopy(model.state_dict())
    folded = networks.folded(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert_close(folded(x), model(x))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_only_equal_sides_are_padded_by_the_convolution():
    model, x = small(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    first, depthwise = networks.padded(model.first), networks.padded(model.depthwise)
    assert type(first) is nn.Conv2d
    assert first.padding == (1, 1)
    assert depthwise is model.depthwise
    assert_close(first(x), model.first(x))


def test_the_time_of_every_step_goes_to_its_kind():
    model, x = small().float(), torch.randn(1, 3, 8, 8)
    timed = networks._Timed(networks.steps_of(model))
    assert torch.equal(timed.run(x), model(x))
    assert set(timed.seconds) == {"standard", "depthwise", "norm", "activation", "pointwise", "add"}


@pytest.mark.skipif(any(find_spec(name) is None for name in networks.PACKAGES), reason="needs the extra `examples`")
def test_every_way_gives_the_answer_of_the_network():
    picture = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        calls = {name: lambda net=net: net(picture) for name, net in networks.models().items()}
        networks.checked(calls, picture)
        with pytest.raises(ValueError, match="zeros is wrong"):
            networks.checked(calls | {"zeros": lambda: torch.zeros(1, 1000)}, picture)
    ways = ("torch", "torch folded", "omniconv", "omniconv folded", "accelerated")
    assert set(calls) == {f"{way}/{layout}" for way in ways for layout in ("cf", "cl")}


def test_steps_of_an_accelerated_network_have_their_kinds_too():
    model, x = small().float(), torch.randn(1, 3, 8, 8)
    fast = omniconv.accelerate(model, x, seconds=0)
    graph = networks.steps_of(fast)
    timed = networks._Timed(graph)
    with torch.no_grad():
        assert_close(timed.run(x), model(x))
    assert set(timed.seconds) <= {"fused", "other", "depthwise", "activation"}
    assert timed.seconds["fused"] > 0


@pytest.mark.skipif(bool(absent()), reason=absent())
def test_one_call_of_each_inverted_residual_is_set_beside_its_parts(monkeypatch, capsys):
    inverted = importlib.import_module("inverted")
    assert inverted.main(["--seconds", "0.01"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 2 * len(inverted.BLOCKS)
    assert all(float(cell) > 0 for row in rows for cell in row.split("|")[2:5])
    right = inverted.calls_of
    monkeypatch.setattr(inverted, "calls_of", lambda *given: {**right(*given), "one": lambda: torch.zeros(1)})
    assert inverted.main(["--seconds", "0.01"]) == 1


@pytest.mark.skipif(bool(absent()), reason=absent())
@pytest.mark.skipif(prepacked._operators() is None, reason="this torch has no oneDNN")
def test_implicit_products_are_set_beside_onednn(monkeypatch, capsys):
    implicit = importlib.import_module("implicit")
    monkeypatch.setattr(implicit, "CONVOLUTIONS", implicit.CONVOLUTIONS[1::6])
    assert implicit.main(["--seconds", "0.01"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 2 * len(implicit.CONVOLUTIONS)
    assert all(float(cell) > 0 for row in rows for cell in row.split("|")[2:5])
    right = implicit.calls_of
    monkeypatch.setattr(implicit, "calls_of", lambda *given: {**right(*given), "ours": lambda: torch.zeros(1)})
    assert implicit.main(["--seconds", "0.01"]) == 1
