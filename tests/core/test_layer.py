# SPDX-License-Identifier: Apache-2.0
"""What every layer does besides its formula: attributes that stay, a bias that comes, parameters taken from torch."""

import pytest
import torch
from torch import nn

import omniconv
from tolerance import assert_close

ATTRIBUTES = {"stride": (2, 2), "padding": (1, 1), "padding_mode": "circular", "groups": 2, "in_channels": 1}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_number_that_was_planned_for_cannot_be_set(name):
    layer = omniconv.nn.Conv2d(4, 4, 3)
    with pytest.raises(AttributeError, match=f"`{name}` .* must stay .* use a new layer"):
        setattr(layer, name, ATTRIBUTES[name])
    setattr(layer, name, getattr(layer, name))


@pytest.mark.parametrize("bias", [False, True])
def test_a_batch_norm_folds_in(bias):
    layer, norm = omniconv.nn.Conv2d(3, 4, 3, bias=bias).eval(), nn.BatchNorm2d(4).eval()
    norm.running_mean.uniform_(-1, 1)
    x = torch.randn(2, 3, 7, 6)
    fused = nn.utils.fuse_conv_bn_eval(layer, norm)
    assert_close(fused(x), norm(layer(x)))
    assert fused.problem.bias
    assert layer.problem.bias is bias


def test_a_bias_can_be_taken_away():
    layer = omniconv.nn.CausalConv1d(2, 3, 3)
    x = torch.randn(1, 2, 5)
    expected = layer(x) - layer.bias.detach().view(-1, 1)
    layer.bias = None
    assert_close(layer(x), expected)
    assert_close(layer.step(x, layer.initial_state())[0], expected)


@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [
        ("PointwiseConv2d", nn.Conv2d(4, 4, 1, padding=1), "padding"),
        ("PointwiseConv2d", nn.Conv2d(4, 4, 3), "kernel_size"),
        ("CausalConv1d", nn.Conv1d(4, 4, 3, padding=1), "padding"),
        ("DepthwiseConv2d", nn.Conv2d(4, 8, 3, groups=4), "out_channels"),
        ("Conv2d", nn.ConvTranspose2d(4, 4, 3), "transposed"),
        ("ConvTranspose2d", nn.Conv2d(4, 4, 3), "transposed"),
    ],
)
def test_from_torch_refuses_what_would_compute_something_else(kind, module, name):
    with pytest.raises(ValueError, match=f"`{name}` .* must be .* in {kind}; use a layer that takes it"):
        getattr(omniconv.nn, kind).from_torch(module)


def test_from_torch_takes_what_is_the_same():
    x = torch.randn(2, 4, 6, 6)
    for kind, module, changes in [
        ("PointwiseConv2d", nn.Conv2d(4, 6, 1, stride=2), {}),
        ("DepthwiseConv2d", nn.Conv2d(4, 8, 3, padding=1, groups=4), {"multiplier": 2}),
        ("ConvTranspose2d", nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), {}),
        ("DeformableConv2d", nn.Conv2d(4, 6, 3, padding=1), {}),
    ]:
        expected = module(x)
        assert_close(getattr(omniconv.nn, kind).from_torch(module, **changes)(x), expected)


def test_autocast_does_not_hide_a_type_that_it_leaves_alone():
    with (
        torch.autocast("cpu"),
        pytest.raises(TypeError, match=r"`weight` dtype \(=torch.float32\) must be that of the"),
    ):
        omniconv.nn.Conv2d(4, 4, 3)(torch.randn(1, 4, 5, 5, dtype=torch.float64))
