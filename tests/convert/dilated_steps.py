# SPDX-License-Identifier: Apache-2.0
"""Small networks of random steps and numbers, and the comparison of a network with its denser one."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn

import omniconv.nn as own
from omniconv.convert.dilate import dilate
from omniconv.core.numbers import divisors
from tolerance import assert_close

CHANNELS = 4
SIZES = {1: (20, 60), 2: (11, 24), 3: (8, 13)}


class Pads(nn.Module):
    """Adds and cuts positions, by a function."""

    def __init__(self, amounts, value):
        super().__init__()
        self.amounts, self.value = amounts, value

    def forward(self, x):
        return F.pad(x, self.amounts, value=self.value)


class Skips(nn.Module):
    """Leaves positions out, by an index."""

    def __init__(self, starts, steps):
        super().__init__()
        self.stride = steps
        self.index = (Ellipsis, *(slice(a, None, s) for a, s in zip(starts, steps, strict=True)))

    def forward(self, x):
        return x[self.index]


class Residual(nn.Module):
    """A convolution beside another, whose taps are fewer."""

    def __init__(self, dim, stride, joined):
        super().__init__()
        conv = getattr(nn, f"Conv{dim}d")
        self.long, self.short = conv(CHANNELS, CHANNELS, 3, stride, 1), conv(CHANNELS, CHANNELS, 1, stride)
        self.across, self.joined, self.stride = conv(2 * CHANNELS, CHANNELS, 1), joined, stride

    def forward(self, x):
        if self.joined == "cat":
            return self.across(torch.cat([self.long(x), self.short(x)], 1))
        return torch.relu(self.long(x) + self.short(x))


class Functional(nn.Module):
    """A convolution and pools without modules of their own."""

    def __init__(self, dim, stride):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CHANNELS, CHANNELS, *(3,) * dim) / 6)
        self.dim, self.stride = dim, stride

    def forward(self, x):
        x = getattr(F, f"conv{self.dim}d")(x, self.weight, padding="same", dilation=2)
        x = getattr(F, f"conv{self.dim}d")(x, self.weight, None, self.stride, 1)
        return getattr(F, f"avg_pool{self.dim}d")(getattr(F, f"max_pool{self.dim}d")(x, 2, 1), 2, stride=1)


@st.composite
def _torch_conv(draw, dim, each):
    kernel, dilation = each(1, 4), each(1, 2)
    groups = draw(st.sampled_from([1, 2, CHANNELS]))
    padding = draw(st.sampled_from(["same", "valid", None]))
    stride = (1,) * dim if padding == "same" else each(1, 3)
    padding = each(0, 3) if padding is None else padding
    bias = draw(st.booleans())
    return getattr(nn, f"Conv{dim}d")(CHANNELS, CHANNELS, kernel, stride, padding, dilation, groups, bias)


@st.composite
def _own_conv(draw, dim, each):
    rules = ["tf_same", "same_lower", "valid", "causal", *(zip(each(0, 3), each(0, 3), strict=True))]
    padding = tuple(draw(st.sampled_from(rules)) for _ in range(dim))
    kernel, stride, dilation = each(1, 4), each(1, 3), each(1, 2)
    kinds = {
        "standard": lambda: getattr(own, f"Conv{dim}d")(CHANNELS, CHANNELS, kernel, stride, padding, dilation),
        "depthwise": lambda: getattr(own, f"DepthwiseConv{dim}d")(CHANNELS, kernel, stride, padding, dilation),
        "separable": lambda: getattr(own, f"DepthwiseSeparableConv{dim}d")(
            CHANNELS, CHANNELS, kernel, stride, padding, dilation, depthwise_bias=True, mid_activation=nn.ReLU
        ),
        "lightweight": lambda: getattr(own, f"LightweightConv{dim}d")(
            CHANNELS, kernel, stride, padding, dilation, heads=2, bias=True
        ),
        "pointwise": lambda: getattr(own, f"PointwiseConv{dim}d")(CHANNELS, CHANNELS, stride, activation=nn.ReLU),
        "inverted": lambda: getattr(own, f"InvertedResidual{dim}d")(
            CHANNELS, CHANNELS, 3, stride, 1, expansion=2, norm=getattr(nn, f"BatchNorm{dim}d"), activation=nn.ReLU6
        ),
    }
    if dim == 1:
        kinds["causal"] = lambda: own.CausalConv1d(CHANNELS, CHANNELS, kernel, stride, dilation)
    else:
        kinds["spatial"] = lambda: getattr(own, f"SpatialSeparableConv{dim}d")(
            CHANNELS, CHANNELS, kernel, stride, padding, dilation
        )
    return kinds[draw(st.sampled_from(sorted(kinds)))]()


@st.composite
def _pool(draw, dim, each):
    kernel, stride = each(1, 4), each(1, 3)
    padding, ceil = tuple(draw(st.integers(0, k // 2)) for k in kernel), draw(st.booleans())
    if draw(st.booleans()):
        return getattr(nn, f"MaxPool{dim}d")(kernel, stride, padding, ceil_mode=ceil)
    words = {"divisor_override": draw(st.sampled_from([None, 3]))} if dim > 1 else {}
    counted = draw(st.booleans())
    return getattr(nn, f"AvgPool{dim}d")(kernel, stride, padding, ceil, counted, **words)


@st.composite
def _other(draw, dim, each):
    signs = each(0, 1)  # an axis is made longer or shorter, not empty and then longer
    amounts = tuple(draw(st.integers(0, 2) if sign else st.integers(-1, 0)) for sign in signs for _ in "ab")
    norm = getattr(nn, f"BatchNorm{dim}d")(CHANNELS)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.running_mean)
    made = {
        "pads": Pads(amounts, draw(st.sampled_from([0.0, 1.5]))),
        "zeros": getattr(nn, f"ZeroPad{dim}d")(amounts),
        "skips": Skips(each(0, 2), each(1, 3)),
        "residual": Residual(dim, each(1, 2), draw(st.sampled_from(["cat", "add"]))),
        "functional": Functional(dim, each(1, 2)),
        "norm": nn.Sequential(norm, nn.GELU(), nn.Dropout(0.5)),
    }
    return made[draw(st.sampled_from(sorted(made)))]


@st.composite
def networks(draw):
    """A network of two to five steps in float64, the size of an input, and an output stride for each axis."""
    dim = draw(st.sampled_from([1, 2, 2, 3]))
    torch.manual_seed(draw(st.integers(0, 1000)))

    def each(least, most):
        return tuple(draw(st.integers(least, most)) for _ in range(dim))

    kinds = [_torch_conv, _own_conv, _pool, _other]
    steps = [draw(draw(st.sampled_from(kinds))(dim, each)) for _ in range(draw(st.integers(2, 5)))]
    net = nn.Sequential(*steps, getattr(nn, f"Conv{dim}d")(CHANNELS, CHANNELS, 1)).double().eval()
    wanted = tuple(draw(st.sampled_from(divisors(total))) for total in strides(net, dim))
    return net, each(*SIZES[dim]), wanted


def strides(net, dim):
    """The stride of a network of these steps on each axis."""
    found = [1] * dim
    for step in net:
        own_stride = (
            step.stride if hasattr(step, "stride") else step.separable.stride if hasattr(step, "separable") else 1
        )
        each = own_stride if isinstance(own_stride, tuple) else (own_stride,) * dim
        found = [total * stride for total, stride in zip(found, each, strict=True)]
    return tuple(found)


def spread(model):
    """The model in float64 and eval, with statistics in its norms that are not those of a new one."""
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.running_mean, 0, 0.1)
    return model.double().eval()


def picture(*size, batch=1):
    return torch.randn(batch, 3, *size, dtype=torch.float64)


def apart(dense, removed):
    """Every ``removed``-th position of the last dims."""
    return dense[(Ellipsis, *(slice(None, None, r) for r in removed))]


def assert_denser(net, x, output_stride, removed, **options):
    """Fail unless the denser network says what the network says, at every ``removed``-th position; give its result."""
    names, values = list(net.state_dict()), [value.clone() for value in net.state_dict().values()]
    dense = dilate(net, output_stride, **options)
    with torch.no_grad():
        expected, found = net(x), dense(x)
    assert list(dense.state_dict()) == names
    dense.load_state_dict(net.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), values, strict=True))
    assert_close(apart(found, removed), expected)
    assert prod(found.shape[2:]) >= prod(expected.shape[2:])
    return found
