# SPDX-License-Identifier: Apache-2.0
"""Laws of the ordinary convolution: it is torch's, and its settings are each other with other numbers."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import warnings
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.convolve import _never_returns
from omniconv.core.family import families
from omniconv.core.problem import PADDING_MODES
from tolerance import assert_close, assert_equal

DIMS = (1, 2, 3)
LAYERS = {d: (getattr(nn, f"Conv{d}d"), getattr(torch.nn, f"Conv{d}d")) for d in DIMS}
DEPTHWISE = {d: getattr(nn, f"DepthwiseConv{d}d") for d in DIMS}
POINTWISE = {d: getattr(nn, f"PointwiseConv{d}d") for d in DIMS}
FUNCTIONS = {d: (getattr(OF, f"conv{d}d"), getattr(F, f"conv{d}d")) for d in DIMS}
NAMES = list(inspect.signature(torch.nn.Conv2d).parameters)[:7]
ATTRIBUTES = (*NAMES, "padding_mode", "transposed", "output_padding")


def whole(*shape):
    """Small whole numbers in float64: every sum of their products is exact."""
    return torch.randint(-3, 4, shape).double()


def of_torch(function, *arguments, **named):
    """What torch computes, without its warning about the copy that an even kernel costs it under ``same``."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using padding='same'", UserWarning)
        return function(*arguments, **named)


@st.composite
def calls(draw):
    """(dim, arguments of a convolution as torch takes them, input size); some geometries have no output."""
    dim, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def spread(strategy):
        return draw(strategy | st.tuples(*[strategy] * dim))

    stride, padding = spread(st.integers(1, 3)), spread(st.integers(0, 3))
    word = draw(st.sampled_from((None, "valid", "same")))
    arguments = {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel_size": spread(st.integers(1, 4)),
        "stride": 1 if word == "same" else stride,
        "padding": word or padding,
        "dilation": spread(st.integers(1, 3)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    return dim, arguments, tuple(draw(st.integers(1, 11)) for _ in range(dim))


@settings(max_examples=150)
@given(calls(), st.sampled_from(PADDING_MODES), st.integers(0, 2))
def test_is_torchs_layer_wherever_torch_has_an_output(call, mode, batch):
    dim, arguments, size = call
    ours, theirs = (layer(**arguments, padding_mode=mode, dtype=torch.float64) for layer in LAYERS[dim])
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(whole(*parameter.shape))
    theirs.load_state_dict(ours.state_dict())
    x = whole(batch, arguments["in_channels"], *size)
    try:
        want = of_torch(theirs, x)
    except RuntimeError:
        with pytest.raises(ValueError, match=r"too small for a kernel|is too large for `padding_mode`"):
            ours(x)
        return
    assert_equal(ours(x), want)
    if batch:
        assert_equal(ours(x[0]), of_torch(theirs, x[0]))


@settings(max_examples=100)
@given(calls())
def test_is_torchs_function_argument_by_argument(call):
    dim, arguments, size = call
    ours, theirs = FUNCTIONS[dim]
    layer = LAYERS[dim][0](**arguments)
    weight, bias = whole(*layer.weight.shape), whole(layer.out_channels) if arguments["bias"] else None
    x, rest = whole(2, layer.in_channels, *size), [arguments[n] for n in ("stride", "padding", "dilation", "groups")]
    try:
        want = of_torch(theirs, x, weight, bias, *rest)
    except RuntimeError:
        assume(condition=False)
    assert_equal(ours(x, weight, bias, *rest), want)


@pytest.mark.parametrize("dim", DIMS)
def test_signatures_are_torchs(dim):
    ours, theirs = (list(inspect.signature(layer).parameters.values()) for layer in LAYERS[dim])
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]
    forward = [list(inspect.signature(layer.forward).parameters) for layer in LAYERS[dim]]
    assert forward[0] == forward[1]
    shown = re.search(r"\((.*)\) -> Tensor", FUNCTIONS[dim][1].__doc__)[1]
    mine = list(inspect.signature(FUNCTIONS[dim][0]).parameters.values())
    assert ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in mine[:-1]) == shown
    assert (mine[-1].name, mine[-1].kind) == ("padding_mode", inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(
    "named",
    [
        {},
        {"bias": False},
        {"stride": 2, "padding": 1, "dilation": 3, "groups": 2},
        {"padding": 2, "padding_mode": "circular"},
        {"padding": "same"},
        {"padding": "valid", "padding_mode": "reflect"},
    ],
)
def test_attributes_state_dict_and_first_values_are_torchs(dim, named):
    made = []
    for layer in LAYERS[dim]:
        torch.manual_seed(3)
        made.append(layer(4, 6, (3, 2, 5)[:dim], **named))
    ours, theirs = made
    for name in ATTRIBUTES:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert repr(ours).replace("'", "") == repr(theirs)
    assert [(n, p.shape) for n, p in ours.state_dict().items()] == [
        (n, p.shape) for n, p in theirs.state_dict().items()
    ]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(mine, other)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(pickle.loads(pickle.dumps(copy.deepcopy(ours))).state_dict())  # noqa: S301  # made here


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("groups", "multiplier"), [(1, 2), (3, 1), (3, 4)])
def test_depthwise_is_grouped_and_one_convolution_a_channel(dim, groups, multiplier):
    geometry = {"stride": 2, "padding": 1, "dilation": 2}
    layer = DEPTHWISE[dim](groups, (3, 2, 3)[:dim], **geometry, multiplier=multiplier, dtype=torch.float64)
    grouped = LAYERS[dim][1](
        groups, groups * multiplier, (3, 2, 3)[:dim], **geometry, groups=groups, dtype=torch.float64
    )
    grouped.load_state_dict(layer.state_dict())
    x = torch.randn(2, groups, *(9, 8, 10)[:dim], dtype=torch.float64)
    assert_equal(layer(x), grouped(x))
    for c, j in product(range(groups), range(multiplier)):
        o = c * multiplier + j
        alone = FUNCTIONS[dim][1](x[:, c : c + 1], layer.weight[o : o + 1], layer.bias[o : o + 1], **geometry)
        assert_close(layer(x)[:, o : o + 1], alone)


@pytest.mark.parametrize("dim", DIMS)
def test_grouped_is_dense_with_a_block_diagonal_weight(dim):
    weight, x = whole(6, 2, *[3] * dim), whole(2, 4, *(6, 7, 5)[:dim])
    dense = torch.zeros(6, 4, *[3] * dim, dtype=torch.float64)
    dense[:3, :2], dense[3:, 2:] = weight[:3], weight[3:]
    conv = FUNCTIONS[dim][0]
    assert_equal(conv(x, weight, None, 2, 1, 1, 2), conv(x, dense, None, 2, 1))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_dilated_is_standard_with_zeros_between_the_taps(dim, dilation):
    kernel = (3, 2, 2)[:dim]
    weight, x = whole(3, 2, *kernel), whole(1, 2, *(11, 9, 8)[:dim])
    stuffed = torch.zeros(3, 2, *(dilation * (k - 1) + 1 for k in kernel), dtype=torch.float64)
    stuffed[(..., *[slice(None, None, dilation)] * dim)] = weight
    for padding in (1, "causal" if dim == 1 else "tf_same"):
        got = FUNCTIONS[dim][0](x, weight, None, 2, padding, dilation)
        assert_equal(got, FUNCTIONS[dim][0](x, stuffed, None, 2, padding))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_is_linear_at_each_position_it_keeps(dim, stride):
    layer = POINTWISE[dim](5, 3, stride, dtype=torch.float64)
    x = torch.randn(2, 5, *(5, 4, 6)[:dim], dtype=torch.float64)
    kept = x[(..., *[slice(None, None, stride)] * dim)]
    want = F.linear(kept.movedim(1, -1), layer.weight.flatten(1), layer.bias).movedim(-1, 1)
    assert_close(layer(x), want)
    named = LAYERS[dim][0](5, 3, 1, stride)
    assert [p.shape for p in named.parameters()] == [p.shape for p in layer.parameters()]


@pytest.mark.parametrize("dim", DIMS)
def test_the_kernel_is_not_flipped(dim):
    weight = whole(1, 1, *(4, 3, 2)[:dim])
    assert_equal(FUNCTIONS[dim][0](weight, weight), (weight * weight).sum().view(1, 1, *[1] * dim))
    point = torch.zeros(1, 1, *[9] * dim, dtype=torch.float64)
    point[(..., *[4] * dim)] = 1
    window = FUNCTIONS[dim][0](point, weight)[(..., *[slice(5 - k, 5) for k in weight.shape[2:]])]
    assert_equal(window, weight.flip(tuple(range(2, dim + 2))))


@pytest.mark.parametrize("padding", [0, "same", ((3, 1),)])
def test_fewer_axes_are_axes_of_one_tap(padding):
    weight, x = whole(4, 3, 5), whole(2, 3, 9)
    pair = ((0, 0), *padding) if isinstance(padding, tuple) else ("valid", padding)
    line = OF.conv1d(x, weight, None, 1, padding, 2)
    assert_equal(OF.conv2d(x.unsqueeze(2), weight.unsqueeze(2), None, 1, pair, (1, 2)).squeeze(2), line)
    column = OF.conv3d(x.unsqueeze(-1).unsqueeze(-1), weight[..., None, None], None, 1, (pair[1], 0, 0), (2, 1, 1))
    assert_equal(column.flatten(2), line)


@settings(max_examples=60)
@given(calls(), st.integers(-3, 3))
def test_translation_equivariance(call, by):
    dim, arguments, size = call
    assume(arguments["padding"] != "same")
    layer = LAYERS[dim][0](**{**arguments, "padding": ("tf_same",) * dim}, padding_mode="circular").double()
    size = tuple(s * n for s, n in zip(layer.stride, size, strict=True))
    x, axes = whole(1, layer.in_channels, *size), tuple(range(2, dim + 2))
    try:
        y = layer(x)
    except ValueError:
        assume(condition=False)
    moved = x.roll([by * s for s in layer.stride], axes)
    assert_close(layer(moved), y.roll([by] * dim, axes))


@pytest.mark.pitfall(41)
@pytest.mark.parametrize(("dim", "taps"), [(1, (31,)), (1, (15,)), (2, (3, 15)), (3, (1, 2, 17))])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_long_depthwise_kernels_in_float16_return_and_are_right(dim, taps, multiplier):
    x, weight = torch.randn(2, 16, *(5, 8)[: dim - 1], 40).half(), torch.randn(16 * multiplier, 1, *taps).half()
    assert _never_returns(x, weight, 16)
    bias = torch.randn(16 * multiplier).half()
    want, terms = (
        FUNCTIONS[dim][1](*(f(t.double()) for t in (x, weight, bias)), padding="same", groups=16)
        for f in (torch.Tensor.clone, torch.abs)
    )
    got = FUNCTIONS[dim][0](x, weight, bias, padding="same", groups=16)
    assert got.dtype == torch.float16
    assert_close(got, want, terms=terms)
    with torch.autocast("cpu", torch.float16):
        wide = FUNCTIONS[dim][0](x.float(), weight.float(), bias.float(), padding="same", groups=16)
    assert wide.dtype == torch.float16
    assert_close(wide, want, terms=terms)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"groups": 3}, ValueError, "`groups` (=3) must divide `in_channels` (=8); use 1, 2 or 4."),
        ({"groups": 8}, ValueError, "`groups` (=8) must divide `out_channels` (=12); use 1, 2 or 4."),
        ({"groups": 0}, ValueError, "`groups` (=0) must be at least 1; use 1 or more."),
        ({"groups": 2.0}, TypeError, "`groups` (=2.0) must be an integer, not float."),
        ({"kernel_size": 0}, ValueError, "`kernel_size` (=0) must be at least 1; use 1 or more."),
        ({"kernel_size": (3, 3, 3)}, ValueError, "must have one value per axis (2); use (3, 3)."),
        ({"stride": 0}, ValueError, "`stride` (=0) must be at least 1; use 1 or more."),
        ({"stride": True}, TypeError, "`stride` (=True) must be an integer, not bool."),
        ({"stride": (2, 1.5)}, TypeError, "`stride` (=1.5) must be an integer, not float."),
        ({"dilation": -1}, ValueError, "`dilation` (=-1) must be at least 1; use 1 or more."),
        ({"padding": -1}, ValueError, "`padding` (=-1) must be at least 0; use 0 or more."),
        ({"padding": "SAME"}, ValueError, "use one of valid, same, same_lower, tf_same, causal."),
        ({"padding": "same", "stride": 2}, ValueError, "use 'tf_same', which allows any stride."),
        ({"padding": "causal"}, ValueError, "name one rule per axis, as ('causal', 'same')."),
        ({"padding_mode": "reflection"}, ValueError, "use 'zeros', 'reflect', 'replicate' or 'circular'."),
        ({"padding_mode": None}, TypeError, "`padding_mode` (=None) must be a string, not NoneType;"),
        ({"bias": 1}, TypeError, "`bias` (=1) must be True or False, not int."),
        ({"in_channels": "8"}, TypeError, "`in_channels` (='8') must be an integer, not str."),
    ],
)
def test_wrong_arguments_are_named_with_the_nearest_legal(arguments, error, text):
    with pytest.raises(error, match=re.escape(text)):
        nn.Conv2d(**{"in_channels": 8, "out_channels": 12, "kernel_size": 3, **arguments})


@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        (torch.ones(2, 4, 5), ValueError, "`input` channels (=2) must be `in_channels` (=3)"),
        (torch.ones(3, 5), ValueError, "`input` has 2 dimensions and must have 4 (n, c, 2 axes) or 3 without a batch"),
        (
            torch.ones(1, 3, 2, 9),
            ValueError,
            "`input` size (=2) on spatial axis 0 is too small for a kernel that spans 3",
        ),
        (torch.ones(1, 3, 0, 9), ValueError, "`input` size (=0) on spatial axis 0 must be at least 1; use 1 or more."),
        (torch.ones(1, 3, 5, 5).double(), TypeError, "must be that of the input (=torch.float64); use .to()."),
        (torch.ones(1, 3, 5, 5, device="meta"), ValueError, "`weight` device (=cpu) must be that of the input (=meta)"),
        (torch.ones(1, 3, 5, 5).int(), TypeError, "`input` dtype (=torch.int32) must be a floating-point type"),
        ([1.0], TypeError, "`input` (=list) must be a torch.Tensor."),
    ],
)
def test_wrong_inputs_are_named(x, error, text):
    with pytest.raises(error, match=re.escape(text)):
        nn.Conv2d(3, 2, 3)(x)


@pytest.mark.parametrize(
    ("weight", "bias", "groups", "error", "text"),
    [
        (torch.ones(2, 3), None, 1, ValueError, "`weight` shape (=(2, 3)) must have 3 dimensions, (o, c/g, *k)."),
        ([1.0], None, 1, TypeError, "`weight` (=list) must be a torch.Tensor."),
        (torch.ones(2, 3, 1), torch.ones(3), 1, ValueError, "`bias` shape (=(3,)) must be (2,)."),
        (torch.ones(2, 3, 1), 0.5, 1, TypeError, "`bias` (=float) must be a torch.Tensor."),
        (torch.ones(2, 3, 1), None, 2, ValueError, "`input` channels (=3) must be `in_channels` (=6, 2 groups of 3)"),
        (torch.ones(2, 3, 1), None, 0, ValueError, "`groups` (=0) must be at least 1; use 1 or more."),
        (torch.ones(2, 3, 1), None, "1", TypeError, "`groups` (='1') must be an integer, not str."),
        (torch.ones(2, 1, 1), None, 3, ValueError, "`groups` (=3) must divide `out_channels` (=2); use 1."),
    ],
)
def test_wrong_weights_are_named(weight, bias, groups, error, text):
    with pytest.raises(error, match=re.escape(text)):
        OF.conv1d(torch.ones(1, 3, 4), weight, bias, groups=groups)


def test_each_layer_bears_the_name_of_its_setting():
    family = families()["conv"]
    for layer, name in [
        (nn.Conv1d(4, 4, 3, padding="causal"), "standard"),
        (nn.Conv2d(4, 4, (1, 3), dilation=(1, 2)), "dilated"),
        (nn.Conv2d(4, 4, (1, 3), dilation=(2, 1)), "standard"),
        (nn.Conv2d(4, 4, 3, groups=2), "grouped"),
        (nn.DepthwiseConv3d(4, 3, dilation=2), "depthwise"),
        (nn.DepthwiseConv3d(1, 3), "standard"),
        (nn.PointwiseConv2d(4, 4, dtype=torch.float16), "pointwise"),
    ]:
        assert family.setting_of(layer.problem).name == name


def test_a_multiplier_from_numpy_is_a_plain_number_that_stays():
    layer = nn.DepthwiseConv2d(4, 3, multiplier=np.int64(2))
    assert type(layer.multiplier) is int
    assert layer.out_channels == 8
    with pytest.raises(AttributeError):
        layer.multiplier = 3
