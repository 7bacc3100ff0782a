# SPDX-License-Identifier: Apache-2.0
"""Weights that stay packed between calls are never those of before, however they were changed."""

from __future__ import annotations

import copy
import gc

import pytest
import torch

from omniconv import nn
from omniconv.core.follow import Packing
from omniconv.core.library import absent
from tolerance import assert_close

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())
INS, OUTS = 70, 65  # fewer weights are not packed
LOOKED_AT = {(i % OUTS, i % INS) for i in range(max(INS, OUTS))}  # by the kernel, at each call
UNSEEN = next((o, c) for o in range(OUTS) for c in range(INS) if (o, c) not in LOOKED_AT)
SHAPES = {"conv": (2, INS, 5, 6), "followed": (2, INS, 5, 6), "separable": (2, INS, 5, 6), "linear": (3, 7, INS)}
SHAPES |= {"inverted": (2, 7, 5, 6), "expansion": (2, INS, 5, 6)}


def layer_of(kind):
    if kind == "conv":
        return nn.Conv2d(INS, OUTS, 1)
    if kind == "followed":
        return nn.PointwiseConv2d(INS, OUTS, activation=torch.nn.ReLU).eval()
    if kind == "separable":
        return nn.DepthwiseSeparableConv2d(INS, OUTS, 3, padding=1, activation=torch.nn.ReLU).eval()
    if kind in ("inverted", "expansion"):
        sizes = {"inverted": (7, OUTS, INS), "expansion": (INS, 9, OUTS)}[kind]
        layer = nn.InvertedResidual2d(*sizes[:2], 3, padding=1, expansion=sizes[2] / sizes[0]).eval()
        layer.owner = "separable" if kind == "inverted" else "expansion"
        return layer
    return nn.Linear(INS, OUTS)


def owner_of(layer):
    """Whose weight is packed."""
    return getattr(layer, layer.owner) if isinstance(layer, nn.InvertedResidual2d) else layer


def name_of(layer):
    return "pointwise_weight" if isinstance(owner_of(layer), nn.DepthwiseSeparableConv2d) else "weight"


def weight_of(layer):
    return getattr(owner_of(layer), name_of(layer))


def in_place(layer):
    weight_of(layer).mul_(-2)


def one_number(layer):
    """Where the kernel does not look, so that torch's count alone says it."""
    weight_of(layer)[UNSEEN] = 9


def by_data(layer):
    weight_of(layer).data.mul_(-2)


def new_data(layer):
    weight = weight_of(layer)
    weight.data = torch.randn_like(weight)


def by_storage(layer):
    weight_of(layer).untyped_storage().copy_(torch.randn_like(weight_of(layer)).untyped_storage())


def loaded(layer):
    layer.load_state_dict({name: torch.randn_like(value) for name, value in layer.state_dict().items()})


def assigned_by_loading(layer):
    state = {name: torch.randn_like(value) for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)


def another_parameter(layer):
    setattr(owner_of(layer), name_of(layer), torch.nn.Parameter(torch.randn_like(weight_of(layer))))


def another_parameter_in_the_same_place(layer):
    """The old one is gone, so that its memory is likely to be the new one's."""
    shape, dtype = weight_of(layer).shape, weight_of(layer).dtype
    delattr(owner_of(layer), name_of(layer))
    gc.collect()
    setattr(owner_of(layer), name_of(layer), torch.nn.Parameter(torch.randn(shape).to(dtype)))


def in_inference_mode(layer):
    with torch.inference_mode():
        weight_of(layer).mul_(-2)


def of_inference_mode(layer):
    with torch.inference_mode():
        setattr(
            owner_of(layer), name_of(layer), torch.nn.Parameter(torch.randn_like(weight_of(layer)), requires_grad=False)
        )


def swapped(layer):
    other = torch.nn.Parameter(torch.randn_like(weight_of(layer)))
    weight = weight_of(layer)
    weight.data, other.data = other.data, weight.data


def set_elsewhere(layer):
    weight_of(layer).set_(torch.randn_like(weight_of(layer)))


def vector_to(layer):
    values = torch.randn(sum(p.numel() for p in layer.parameters())).to(weight_of(layer).dtype)
    torch.nn.utils.vector_to_parameters(values, layer.parameters())


CHANGES = (
    in_place,
    one_number,
    by_data,
    new_data,
    by_storage,
    loaded,
    assigned_by_loading,
    another_parameter,
    another_parameter_in_the_same_place,
    in_inference_mode,
    of_inference_mode,
    swapped,
    set_elsewhere,
    vector_to,
)
KINDS = tuple(SHAPES)


def fresh(layer, x):
    """What a layer computes that has never packed anything."""
    with torch.no_grad():
        return copy.deepcopy(layer).double()(x.double())


def check_change(kind, change, dtype=torch.float32, inside=False):
    layer, x = layer_of(kind).to(dtype), torch.randn(SHAPES[kind]).to(dtype)
    if inside:
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(2):
            for _ in range(3):
                assert_close(layer(x), fresh(layer, x))
            change(layer)
            for _ in range(3):
                assert_close(layer(x), fresh(layer, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_changed_weights(kind, change, dtype):
    check_change(kind, change, dtype)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", KINDS[:3])
def test_changed_weights_in_channels_last(kind, change):
    check_change(kind, change, inside=True)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_layouts_and_types_by_turns(kind):
    layer, x = layer_of(kind), torch.randn(SHAPES[kind])
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16, torch.float32):
            layer.to(dtype)
            for turn in range(8):
                given = x.to(dtype, memory_format=(torch.contiguous_format, torch.channels_last)[turn // 2 % 2])
                assert_close(layer(given), fresh(layer, given))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_are_computed_anew_at_each_call(kind):
    layer, x = layer_of(kind), torch.randn(SHAPES[kind])
    owner, name = owner_of(layer), name_of(layer)
    torch.nn.utils.parametrizations.weight_norm(owner, name)
    with torch.no_grad():
        for _ in range(4):
            want = torch.func.functional_call(layer, {}, (x,))
            assert_close(layer(x), want)
            getattr(owner.parametrizations, name).original0.mul_(1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_layers_that_share_a_weight(kind):
    one, x = layer_of(kind), torch.randn(SHAPES[kind])
    other = copy.copy(one)
    with torch.no_grad():
        for _ in range(3):
            for layer in (one, other):
                assert_close(layer(x), fresh(one, x))
            weight_of(other).mul_(-1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_this_sees_packed_weights_that_are_never_packed_anew(kind, monkeypatch):
    """The kernel looks at some of the weights; of one number that it does not look at, torch's count alone tells."""
    right, held = Packing.of, {}

    def stale(self, input, owner, weight=None):
        packed = right(self, input, owner, weight)
        return held.setdefault(id(self), packed) if packed is not None else held.get(id(self))

    monkeypatch.setattr(Packing, "of", stale)
    check_change(kind, in_place, inside=kind != "linear")  # the kernel saw it
    held.clear()
    with pytest.raises(AssertionError, match="elements are wrong"):
        check_change(kind, one_number, inside=kind != "linear")
