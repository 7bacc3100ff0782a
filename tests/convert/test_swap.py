# SPDX-License-Identifier: Apache-2.0
"""A model's convolutions swapped for ours: the same results, parameters and names, and nothing swapped that differs."""

from __future__ import annotations

import inspect
import re
import sys
import types
import warnings
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import omniconv
from omniconv.convert.swap import replaceable, swap
from omniconv.core.layer import ConvLayer
from tolerance import assert_close

SIZES = {1: (19,), 2: (9, 11), 3: (7, 6, 8)}


def straight(dim):
    kind = getattr(nn, f"Conv{dim}d")
    cases = {
        "plain": kind(4, 6, 3),
        "strided": kind(4, 6, 3, 2, 1, bias=False),
        "dilated": kind(4, 6, 3, padding=2, dilation=2),
        "grouped": kind(4, 6, 2, groups=2),
        "depthwise": kind(4, 8, 3, padding=1, groups=4),
        "pointwise": kind(4, 6, 1),
        "valid": kind(4, 6, 3, padding="valid"),
        "same, even": kind(4, 6, 4, padding="same", dilation=1),
        "same, odd": kind(4, 6, 3, padding="same", dilation=2),
    }
    cases |= {mode: kind(4, 6, 3, padding=2, padding_mode=mode) for mode in ("reflect", "replicate", "circular")}
    cases["same, circular"] = kind(4, 6, 4, padding="same", padding_mode="circular")
    return cases


def transposed(dim):
    kind = getattr(nn, f"ConvTranspose{dim}d")
    return {
        "plain": kind(4, 6, 3),
        "strided": kind(4, 6, 4, 2, 1),
        "output padding": kind(4, 6, 3, 2, 1, 1, bias=False),
        "grouped": kind(4, 6, 2, 2, groups=2),
        "dilated": kind(4, 6, 3, 2, 1, 1, 1, True, 2),
    }


CASES = {
    f"{make.__name__} {dim}-D {name}": (layer, SIZES[dim])
    for make, dim in product((straight, transposed), (1, 2, 3))
    for name, layer in make(dim).items()
}


def run(model, x):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same'")
        return model(x)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batched", [True, False], ids=["batch", "no batch"])
def test_every_class(name, batched):
    layer, size = CASES[name]
    x = torch.randn(2, 4, *size) if batched else torch.randn(4, *size)
    model = nn.Sequential(layer, nn.ReLU())
    expected = run(model, x)
    names, values = list(model.state_dict()), list(model.parameters())
    found = swap(model)
    assert list(found.swapped) == ["0"]
    assert found.left == {}
    assert isinstance(model[0], ConvLayer)
    assert type(model[0]).__name__ == type(layer).__name__
    assert list(model.state_dict()) == names
    assert all(new is old for new, old in zip(model.parameters(), values, strict=True))
    assert_close(model(x), expected)
    model[0] = layer  # the cases are shared between tests


def test_the_classes_and_their_signatures():
    names = {f"{kind}{dim}d" for kind in ("Conv", "ConvTranspose") for dim in (1, 2, 3)}
    known = replaceable()
    assert {kind.__name__ for kind in known} >= names
    for theirs, ours in known.items():
        if theirs.__module__.startswith("torch.nn"):
            parameters = list(inspect.signature(theirs).parameters)
            assert list(inspect.signature(ours).parameters)[: len(parameters)] == parameters


def test_flags_devices_dtypes_and_attributes_stay():
    frozen = nn.Conv2d(3, 4, 3).bfloat16().eval().requires_grad_(False)
    frozen.nickname = "stem"
    frozen.bias.grad = torch.ones(4, dtype=torch.bfloat16)
    model = nn.ModuleDict({"frozen": frozen, "far": nn.Conv2d(3, 4, 3, device="meta", dtype=torch.float64)})
    gradient = frozen.bias.grad
    swap(model)
    new = model["frozen"]
    assert isinstance(new, omniconv.nn.Conv2d)
    assert (new.training, new.weight.requires_grad, new.weight.dtype) == (False, False, torch.bfloat16)
    assert new.bias.grad is gradient
    assert new.nickname == "stem"
    assert (model["far"].weight.device.type, model["far"].weight.dtype) == ("meta", torch.float64)
    assert model["far"].training


def test_a_shared_module_is_swapped_once_and_everywhere():
    conv = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.ModuleDict({"a": conv, "b": conv, "c": nn.Sequential(nn.ReLU(), conv)})
    tied = nn.Conv2d(3, 3, 3)
    tied.weight = conv.weight
    model["d"] = tied
    found = swap(model)
    assert list(found.swapped) == ["a", "d"]
    assert model["a"] is model["b"] is model["c"][1]
    assert model["d"].weight is model["a"].weight
    assert not any(type(m) is nn.Conv2d for m in model.modules())


def test_training_goes_on():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    swap(model)
    model(torch.randn(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, state["0.weight"])
    model.load_state_dict(state)
    assert torch.equal(model[0].weight, state["0.weight"])


def test_no_random_number_is_drawn():
    model, drawn = nn.Sequential(nn.Conv2d(3, 4, 3)), torch.get_rng_state()
    swap(model)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_model_that_is_itself_a_convolution():
    conv, x = nn.Conv1d(3, 4, 3), torch.randn(2, 3, 9)
    found = swap(conv)
    assert isinstance(found.model, omniconv.nn.Conv1d)
    assert found.model.weight is conv.weight
    assert_close(found.model(x), conv(x))
    assert str(found) == "1 swapped, 0 left\n  (the model): Conv1d → Conv1d"


def test_a_call_with_output_size():
    model, x = nn.ConvTranspose2d(3, 4, 3, 2), torch.randn(1, 3, 5, 5)
    expected = model(x, output_size=(12, 11))
    assert_close(swap(model).model(x, output_size=(12, 11)), expected)


class PadsItself(nn.Conv2d):
    """A convolution that pads as TensorFlow does, on its own."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


def hooked():
    conv = nn.Conv2d(3, 4, 3)
    conv.register_forward_hook(lambda *_: None)
    return conv


def with_more():
    conv = nn.Conv2d(3, 4, 3)
    conv.register_buffer("scale", torch.ones(1))
    return conv


def with_other_forward():
    conv = nn.Conv2d(3, 4, 3)
    conv.forward = lambda x: x
    return conv


def with_other_weight():
    conv = nn.Conv2d(3, 4, 3)
    conv.weight = nn.Parameter(torch.ones(2, 3, 3, 3))
    return conv


def lazy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.LazyConv2d(4, 3)


LEFT = {
    "a subclass": (lambda: PadsItself(3, 4, 3), "its class PadsItself may compute something else than Conv2d"),
    "hooks": (hooked, "it has hooks"),
    "more in it": (with_more, "it holds bias, scale, weight"),
    "another forward": (with_other_forward, "its forward was replaced"),
    "another weight": (with_other_weight, r"`weight` shape \(=\(2, 3, 3, 3\)\) must be \(4, 3, 3, 3\)"),
    "lazy": (lazy, "has not seen its input"),
    "pruned": (lambda: prune.l1_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5), "it has hooks"),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "its class Parametrized"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_may_differ_is_left_and_said(name):
    make, why = LEFT[name]
    conv = make()
    model = nn.Sequential(conv, nn.Conv2d(4, 2, 1))
    found = swap(model)
    assert model[0] is conv
    assert list(found.swapped) == ["1"]
    assert list(found.left) == ["0"]
    assert re.search(why, found.left["0"])
    assert "0 left: " in str(found)


def test_a_rule_for_another_class():
    model, x = nn.Sequential(PadsItself(3, 4, 4, 2, 1), nn.ReLU()), torch.randn(2, 3, 9, 9)
    expected = model(x)
    padded = {PadsItself: lambda m: omniconv.nn.Conv2d.from_torch(m, padding=((1, 2), (1, 2)))}
    found = swap(model, padded)
    assert found.swapped == {"0": ("PadsItself", "Conv2d")}
    assert type(model[0]) is omniconv.nn.Conv2d
    assert_close(model(x), expected)


def test_other_layers_and_own_layers_stay():
    own = omniconv.nn.Conv2d(3, 4, 3)
    model = nn.Sequential(own, nn.Linear(3, 4), nn.Unfold(2))
    found = swap(model)
    assert model[0] is own
    assert (found.swapped, found.left) == ({}, {})


def test_torchvisions_layer_where_it_is_imported(monkeypatch):
    class DeformConv2d(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_channels, self.out_channels, self.groups = 4, 6, 1
            self.kernel_size, self.stride, self.padding, self.dilation = (3, 3), (1, 1), (1, 1), (1, 1)
            self.weight, self.bias = nn.Parameter(torch.randn(6, 4, 3, 3)), None

    assert DeformConv2d not in replaceable()
    vision = types.ModuleType("torchvision.ops")
    vision.DeformConv2d = DeformConv2d
    monkeypatch.setitem(sys.modules, "torchvision.ops", vision)
    old = DeformConv2d()
    new = swap(old).model
    assert new.weight is old.weight
    x = torch.randn(1, 4, 5, 5)
    assert_close(new(x, torch.zeros(1, 18, 5, 5)), nn.functional.conv2d(x, old.weight, padding=1))


@pytest.mark.parametrize(
    ("model", "rules", "error", "text"),
    [
        ("conv", None, TypeError, r"`model` \(=str\)"),
        (nn.ReLU(), {"Conv2d": lambda m: m}, TypeError, "`rules` entry"),
        (nn.ReLU(), {nn.Conv2d: 3}, TypeError, "`rules` entry"),
        (nn.Sequential(PadsItself(3, 4, 3)), {PadsItself: lambda m: None}, TypeError, "gave NoneType for '0'"),
        (
            nn.Sequential(nn.Conv2d(3, 3, 3), PadsItself(3, 4, 3)),
            {PadsItself: lambda m: nn.Conv2d(3, 4, 3, bias=False)},
            ValueError,
            "entries weight for '1', which had weight, bias",
        ),
    ],
)
def test_refuses_and_changes_nothing(model, rules, error, text):
    before = list(model.modules()) if isinstance(model, nn.Module) else []
    with pytest.raises(error, match=text):
        swap(model, rules)
    assert before == (list(model.modules()) if isinstance(model, nn.Module) else [])
