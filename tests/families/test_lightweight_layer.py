# SPDX-License-Identifier: Apache-2.0
"""The lightweight layer: fairseq's weights, first values, costs, and what it refuses."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch
import torch.nn.functional as F

import omniconv.functional as OF
from families.heads import heads_of, looped
from omniconv import nn
from omniconv.core.family import Position, families
from omniconv.core.family import settings as named_settings
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from tolerance import assert_close, assert_equal

DIMS = (1, 2, 3)
LAYERS = {d: getattr(nn, f"LightweightConv{d}d") for d in DIMS}
FUNCTIONS = {d: getattr(OF, f"lightweight_conv{d}d") for d in DIMS}


@pytest.mark.pitfall(22, 24, 26)
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(
    ("shape", "head_layout"), [((4, 1, 5), "block"), ((4, 5), "block"), ((4, 1, 5), "interleaved")]
)
def test_loads_fairseq(shape, head_layout, softmax):
    """Against loops over fairseq's definition: (t, n, c) with heads in blocks, (n, c, t) with heads interleaved."""
    weights = {"conv.weight": torch.randn(shape, dtype=torch.float64), "conv.bias": torch.randn(8, dtype=torch.float64)}
    kernels = weights["conv.weight"].reshape(4, 5)
    if softmax:
        kernels = torch.stack([row.exp() / row.exp().sum() for row in kernels])
    for left in (0, 2, 4):
        arguments = {"padding": ((left, 4 - left),), "softmax": softmax, "head_layout": head_layout, "prefix": "conv."}
        layer = nn.LightweightConv1d.from_fairseq(weights, **arguments)
        x = torch.randn(2, 8, 3, dtype=torch.float64)
        want = looped(x, kernels, heads_of(8, 4, head_layout), left) + weights["conv.bias"].view(-1, 1)
        assert layer.weight.dtype == torch.float64
        assert_close(layer(x), want)


def test_fairseq_weights_of_something_else_are_refused():
    load = nn.LightweightConv1d.from_fairseq
    with pytest.raises(ValueError, match=r"`state_dict` names \(=\['weight', 'weight_g'\]\) must be 'weight'"):
        load({"weight": torch.zeros(2, 3), "weight_g": torch.zeros(1)}, 4)
    with pytest.raises(ValueError, match=r"`weight` shape \(=\(2, 2, 3\)\) must be \(h, 1, k\) or \(h, k\)"):
        load({"weight": torch.zeros(2, 2, 3)}, 4)
    with pytest.raises(ValueError, match=r"`channels` \(=None\) must be given"):
        load({"weight": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"`heads` \(=2\) must divide `channels` \(=5\); use 1 or 5"):
        load({"weight": torch.zeros(2, 3)}, 5)


@pytest.mark.pitfall(30)
@pytest.mark.parametrize("dim", DIMS)
def test_init_is_xavier_with_the_fans_of_one_filter_a_head(dim):
    heads, taps = 16, (7, 3, 3)[:dim]
    layer = LAYERS[dim](32, taps, heads=heads, bias=True)
    fan_in, fan_out = math.prod(taps), heads * math.prod(taps)
    bound = math.sqrt(6 / (fan_in + fan_out))
    drawn = layer.weight.detach().abs().max()
    assert 0.9 * bound < drawn <= bound
    assert drawn < math.sqrt(6 / (fan_in + heads)), "the fans are those of (H, K)"
    assert not layer.bias.any()


def test_one_kernel_for_every_head_of_a_layer_is_what_is_held():
    layer = nn.LightweightConv2d(64, 3, heads=8, bias=True)
    assert {name: tuple(p.shape) for name, p in layer.state_dict().items()} == {"weight": (8, 3, 3), "bias": (64,)}
    assert repr(layer) == (
        "LightweightConv2d(64, kernel_size=(3, 3), heads=8, padding='same', softmax=True, bias=True)"
    )
    twin = pickle.loads(pickle.dumps(copy.deepcopy(layer)))  # noqa: S301 - its own bytes
    x = torch.randn(1, 64, 5, 6)
    assert_equal(twin(x), layer(x))
    for name in ("heads", "softmax", "head_layout", "stride"):
        with pytest.raises(AttributeError):
            setattr(layer, name, 3)


def test_counts():
    family, setting = named_settings()["lightweight"]
    image = family.cost(setting.build(Position(64, 64, (56, 56), (3, 3), (1, 1), (1, 1))))
    assert (image.params, image.macs, image.exponentials) == (72, 1_806_336, 72)
    assert image.macs == 64 * 56 * 56 * 9
    line = family.cost(setting.build(Position(64, 64, (100,), (7,), (1,), (1,))))
    assert (line.params, line.macs) == (56, 44_800)
    biased = family.cost(setting.build(Position(64, 64, (100,), (7,), (1,), (1,), bias=True)))
    assert (biased.params, biased.macs, biased.bias_adds) == (56 + 64, 44_800, 6_400)


def test_nearest_position():
    _, setting = named_settings()["lightweight"]
    assert setting.nearest(Position(64, 64, (9,), (3,), (1,), (1,))) is None
    near, note = setting.nearest(Position(30, 128, (9,), (3,), (1,), (1,)))
    assert (near.in_channels, near.out_channels, near.heads) == (30, 30, 6)
    assert note == "needs out = in; shown at 30 → 30; 8 heads do not divide 30 channels; shown with 6"
    with pytest.raises(ValueError, match=r"`out_channels` \(=128\) must be `in_channels` \(=64\); use 64"):
        setting.build(Position(64, 128, (9,), (3,), (1,), (1,)))


@pytest.mark.parametrize("dim", DIMS)
def test_layer_and_function_agree(dim):
    layer = LAYERS[dim](6, 3, 2, "tf_same", 2, heads=3, bias=True, padding_mode="zeros", head_layout="interleaved")
    x = torch.randn(2, 6, *(9, 8, 7)[:dim])
    numbers = {"stride": 2, "padding": "tf_same", "dilation": 2, "head_layout": "interleaved"}
    assert_equal(FUNCTIONS[dim](x, layer.weight, layer.bias, **numbers), layer(x))
    again = families()["lightweight"].layer_of(layer.problem)
    assert again.problem == layer.problem
    assert again(x).shape == layer(x).shape
    names = list(inspect.signature(FUNCTIONS[dim]).parameters)
    assert names[:5] == ["input", "weight", "bias", "padding", "softmax"]


def test_what_the_notes_call_grouped_conv1d():
    """A grouped convolution takes no (H, K) weight; and H heads hold H·K numbers, not d·H."""
    x, weight = torch.randn(1, 6, 9), torch.randn(3, 7)
    with pytest.raises(RuntimeError):
        F.conv1d(x, weight.unsqueeze(1), groups=3)
    repeated = weight.softmax(1).repeat_interleave(2, 0).unsqueeze(1)
    assert_close(OF.lightweight_conv1d(x, weight), F.conv1d(x, repeated, padding=3, groups=6))
    assert repeated.numel() == 42
    assert weight.numel() == 21


BAD = [
    ({"heads": 3}, ValueError, r"`heads` \(=3\) must divide `channels` \(=8\); use 1, 2, 4 or 8"),
    ({"heads": 0}, ValueError, r"`heads` \(=0\) must be at least 1; use 1 or more"),
    ({"heads": 2.0}, TypeError, r"`heads` \(=2.0\) must be an integer, not float"),
    ({"channels": 0}, ValueError, r"`channels` \(=0\) must be at least 1"),
    ({"softmax": 1}, TypeError, r"`softmax` \(=1\) must be True or False, not int"),
    ({"dropout": 1.5}, ValueError, r"`dropout` \(=1.5\) must be from 0 to 1; use 1"),
    ({"dropout": -0.5}, ValueError, r"`dropout` \(=-0.5\) must be from 0 to 1; use 0"),
    ({"dropout": "0.1"}, TypeError, r"`dropout` \(='0.1'\) must be a number from 0 to 1, not str"),
    ({"head_layout": "mod"}, ValueError, r"`head_layout` \(='mod'\) must be one of .* use 'block' or 'interleaved'"),
    ({"stride": 2}, ValueError, r"`padding` \(='same'\) needs `stride` \(=2\) to be 1.*use 'tf_same'"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), BAD)
def test_wrong_arguments_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        nn.LightweightConv1d(**({"channels": 8, "kernel_size": 3} | wrong))


def test_wrong_tensors_are_refused():
    x, weight = torch.zeros(2, 8, 9), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"`heads` \(=3\) must divide `channels` \(=8\)"):
        OF.lightweight_conv1d(x, torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"`weight` shape \(=\(4, 1, 3\)\) must have 2 dimensions, \(h, \*k\)"):
        OF.lightweight_conv1d(x, weight.unsqueeze(1))
    with pytest.raises(ValueError, match=r"`input` has 4 dimensions and must have 3"):
        OF.lightweight_conv1d(x.unsqueeze(0), weight)
    with pytest.raises(ValueError, match=r"`input` has 1 dimensions and must have 3"):
        OF.lightweight_conv1d(torch.zeros(4), weight)
    with pytest.raises(ValueError, match=r"`bias` shape \(=\(4,\)\) must be \(8,\)"):
        OF.lightweight_conv1d(x, weight, torch.zeros(4))
    with pytest.raises(TypeError, match=r"`input` \(=list\) must be a torch.Tensor"):
        OF.lightweight_conv1d([1.0], weight)
    with pytest.raises(TypeError, match=r"`weight` \(=NoneType\) must be a torch.Tensor"):
        OF.lightweight_conv1d(x, None)
    with pytest.raises(ValueError, match=r"too small for a kernel that spans 11"):
        OF.lightweight_conv1d(x, torch.zeros(4, 11), padding="valid")


WRONG_PROBLEMS = [
    ("lightweight:c4_o4_k3_g4_softmax=1", r"`heads` is missing in the problem; write `heads=1`"),
    ("lightweight:c4_o4_k3_g4_heads=2", r"`softmax` is missing in the problem"),
    ("lightweight:c4_o8_k3_g4_heads=2_softmax=1", r"`out_channels` \(=8\) must be `in_channels` \(=4\); use 4"),
    ("lightweight:c4_o4_k3_heads=2_softmax=1", r"`groups` \(=1\) must be the number of channels \(=4\); use 4"),
    ("lightweight:c4_o4_k3_g4_heads=2_softmax=2", r"`softmax` \(=2\) must be 0 or 1 in a problem"),
    ("lightweight:c4_o4_k3_g4_heads=2_softmax=1_tails=2", r"`tails` \(=2\) is not known to this family"),
    ("lightweight:c4_o4_k3_g4_t_heads=2_softmax=1", r"`transposed` \(=True\) must be False"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_PROBLEMS)
def test_wrong_problems_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Plan(ConvProblem.parse(text))
