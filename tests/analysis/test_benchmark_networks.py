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
    ways = ("torch", "torch folded", "omniconv", "omniconv folded", "omniconv fused")
    assert set(calls) == {f"{way}/{layout}" for way in ways for layout in ("cf", "cl")}


class Block(nn.Module):
    """Two pointwise convolutions around a depthwise one, a sum before the last activation, and a classifier."""

    def __init__(self):
        super().__init__()
        self.expand, self.depthwise = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False)
        self.project, self.beside = nn.Conv2d(8, 6, 1), nn.Conv2d(4, 6, 1, 2, bias=False)
        self.inner, self.outer, self.classifier = nn.SiLU(), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        wide = self.inner(self.expand(x))
        x = self.outer(self.beside(x) + self.project(self.inner(self.depthwise(wide))))
        return self.classifier(x.mean((2, 3)))


def test_a_fused_model_is_three_layers_and_a_classifier_that_compute_the_same():
    model, x = Block().double().eval(), torch.randn(2, 4, 9, 8, dtype=torch.float64)
    model_of_ours = networks.swap(copy.deepcopy(model)).model
    fused = networks.fused(networks.steps_of(model_of_ours))
    layers = {name: module for name, module in fused.named_modules() if isinstance(module, networks.FUSED)}
    assert list(layers) == ["fused_expand", "fused_beside", "fused_depthwise"]
    assert type(layers["fused_expand"].activation) is nn.SiLU
    block = layers["fused_depthwise"]
    assert (type(block.mid_activation), type(block.activation)) == (nn.SiLU, nn.ReLU)
    assert type(fused.classifier) is omniconv.nn.Linear
    assert {node.op for node in fused.graph.nodes} == {"placeholder", "call_module", "call_method", "output"}
    assert_close(fused(x), model(x))
    timed = networks._Timed(networks.steps_of(fused))
    timed.run(x)
    assert set(timed.seconds) == {"fused", "other"}


class Inverted(nn.Module):
    """Two inverted residuals, of which the second adds what is not its own input."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(
            nn.ModuleList((nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 4, 1, bias=False)))
            for _ in range(3)
        )
        self.activation = nn.ReLU6()

    def forward(self, x):
        first = x
        for number, (expand, depthwise, project) in enumerate(self.steps):
            y = project(self.activation(depthwise(self.activation(expand(x)))))
            x = y if number == 0 else y + (x, first)[number - 1]
        return x


def test_inverted_residuals_are_one_layer_where_they_add_their_own_input():
    model, x = Inverted().double().eval(), torch.randn(2, 4, 9, 8, dtype=torch.float64)
    fused = networks.fused(networks.steps_of(networks.swap(copy.deepcopy(model)).model))
    layers = [type(module).__name__ for module in fused.children() if isinstance(module, networks.FUSED)]
    assert layers == ["InvertedResidual2d"] * 2 + ["PointwiseConv2d", "DepthwiseSeparableConv2d"]
    assert [layer.residual for layer in fused.children() if hasattr(layer, "residual")] == [False, True]
    assert_close(fused(x), model(x))


class Apart(nn.Module):
    """Nothing here is one call: each convolution is used twice, or what follows it is none of its own."""

    def __init__(self):
        super().__init__()
        self.depthwise, self.across, self.strided = (
            nn.Conv2d(4, 4, 3, groups=4),
            nn.Conv2d(4, 4, 1),
            nn.Conv2d(4, 4, 1, 2),
        )
        self.activation = nn.ReLU()

    def forward(self, x):
        first = self.depthwise(x)
        second = self.across(first)
        return self.strided(self.depthwise(first + self.activation(second) + second)) + 1


def test_what_is_used_elsewhere_too_is_not_fused():
    model, x = Apart().double().eval(), torch.randn(2, 4, 9, 8, dtype=torch.float64)
    graph = networks.steps_of(copy.deepcopy(model))
    found = list(importlib.import_module("fusing").chains(graph))
    assert [[node.name for node in chain.nodes] for chain in found] == [["across"], ["strided"]]
    assert_close(networks.fused(graph)(x), model(x))


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
