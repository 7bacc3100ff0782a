# SPDX-License-Identifier: Apache-2.0
"""The layers: torchvision's numbers, signatures and state dicts, mmcv's state dicts, heads of zeros, errors."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re

import pytest
import torch

import omniconv
import omniconv.functional as OF
from omniconv import nn
from omniconv.core.family import Position, families, family_of
from omniconv.core.family import settings as named_settings
from omniconv.core.problem import ConvProblem
from tolerance import assert_close, assert_equal

DEFORM = {d: getattr(nn, f"DeformConv{d}d") for d in (1, 2, 3)}
HEADED = {d: getattr(nn, f"DeformableConv{d}d") for d in (1, 2, 3)}
# torchvision 0.28 and 0.29, torchvision/ops/deform_conv.py
TORCHVISION = {
    "function": ["input", "offset", "weight", "bias", "stride", "padding", "dilation", "mask"],
    "layer": ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"],
    "forward": ["input", "offset", "mask"],
}
DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "mask": None}


def pattern(*shape, step, modulus):
    """Whole numbers around 0 that anyone can write down again."""
    count = torch.Size(shape).numel()
    return ((torch.arange(count) * step) % modulus - modulus // 2).double().view(shape)


# What torchvision 0.28.0 computes on a CPU: output, then gradients. Offsets are halves and whole numbers: half of the
# positions stand on a kink, some of them at exactly -1.
RECORDED = {
    "output": [-17, -13, -9, -3, -53, 40, 145, -12],
    "input": [0, 0, -1, 0, 11.5, 0, 0, 1, 5.5, 0, 0, 0, -18.5, -4, 0, 0, -8.5, 0, 0, 0, 0, 0, 0, 0],
    "offset": [
        *(0, 0, 0, 0, 0, 0, 80, 0, -4, 0, 18, 22, 20, 0, -36, -6, 0, 0, 6, 0, 0, 0, 0, 0, -72, 0, 0, 0, 72, 0, 0, 0),
        *(0, 96, 0, -48, 0, 160, 0, 80, 6, 0, 0, 0, 10, 0, 0, 0, 36, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
    ],
    "weight": [0, 8.5, 0, 9, 26, 5, -24, 0],
    "mask": [
        *(0, 0, 0, -7.5, 2, 0, 6, 1.5, 0, 0, 0, 0, -12, 0, 0, 0, 0, 40, 0, -12, -5, 0, 0, 0, 16, 0, 0, -32, 0, 0, 0, 0)
    ],
}


@pytest.mark.pitfall(1, 2, 3, 5)
def test_numbers_of_torchvision():
    leaves = {
        "input": pattern(1, 2, 3, 4, step=7, modulus=17),
        "offset": pattern(1, 16, 2, 2, step=11, modulus=7) / 2,
        "weight": pattern(2, 1, 2, 2, step=3, modulus=11),
        "mask": pattern(1, 8, 2, 2, step=5, modulus=6),
    }
    for leaf in leaves.values():
        leaf.requires_grad_()
    output = OF.deform_conv2d(**leaves, stride=(2, 2), padding=(1, 1), dilation=(1, 2))
    gradients = torch.autograd.grad(output, list(leaves.values()), pattern(*output.shape, step=2, modulus=5))
    for name, got in zip(RECORDED, (output, *gradients), strict=True):
        assert_equal(got.flatten(), torch.tensor(RECORDED[name], dtype=torch.float64))


def positional(function):
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD], parameters


@pytest.mark.parametrize("dim", DEFORM)
def test_signatures_of_torchvision(dim):
    names, parameters = positional(getattr(OF, f"deform_conv{dim}d"))
    assert names == TORCHVISION["function"]
    assert {p.name: p.default for p in parameters if p.name in DEFAULTS} == DEFAULTS
    assert positional(DEFORM[dim].__init__)[0] == TORCHVISION["layer"]
    assert positional(DEFORM[dim].forward)[0] == TORCHVISION["forward"]


def test_a_layer_that_predicts_takes_the_arguments_of_torchs_convolution():
    names, _ = positional(nn.DeformableConv2d.__init__)
    assert names == positional(torch.nn.Conv2d.__init__)[0]


@pytest.mark.parametrize("dim", DEFORM)
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_and_their_start_are_torchs(dim, bias):
    """torchvision draws as torch does; the same seed gives the same numbers."""
    torch.manual_seed(4)
    layer = DEFORM[dim](4, 6, 3, groups=2, bias=bias)
    torch.manual_seed(4)
    conv = getattr(torch.nn, f"Conv{dim}d")(4, 6, 3, groups=2, bias=bias)
    assert list(layer.state_dict()) == list(conv.state_dict())
    for name, value in conv.state_dict().items():
        assert_close(layer.state_dict()[name], value)
    layer.load_state_dict(conv.state_dict())


@pytest.mark.parametrize("dim", DEFORM)
def test_a_layer_is_its_function(dim):
    layer = DEFORM[dim](4, 6, (3, 2, 2)[:dim], stride=2, padding="tf_same", dilation=1, groups=2).double()
    x = torch.randn(2, 4, *(5, 6, 4)[:dim], dtype=torch.float64)
    outs, taps = layer.problem.out_size_of(tuple(x.shape[2:])), (3, 6, 12)[dim - 1]
    for shared in (1, 4):
        offset, mask = torch.randn(2, shared * taps * dim, *outs), torch.rand(2, shared * taps, *outs)
        for given in (None, mask.double()):
            want = getattr(OF, f"deform_conv{dim}d")(
                x, offset.double(), layer.weight, layer.bias, stride=2, padding="tf_same", mask=given
            )
            assert_equal(layer(x, offset.double(), given), want)
            bare = layer(x[0], offset[0].double(), None if given is None else given[0])
            assert_close(bare, want[0])


@pytest.mark.pitfall(4)
@pytest.mark.parametrize("dim", HEADED)
@pytest.mark.parametrize(("options", "factor"), [({}, 1), ({"mask": True}, 0.5), ({"mask": True, "mask_scale": 2}, 1)])
def test_a_head_of_zeros_gives_the_convolution_or_half_of_it(dim, options, factor):
    layer = HEADED[dim](4, 6, 3, 2, 1, groups=2, bias=False, offset_groups=2, **options).double()
    x = torch.randint(-3, 4, (2, 4, *(7, 6, 5)[:dim])).double()
    weight = torch.randint(-3, 4, layer.weight.shape).double()
    layer.weight.data.copy_(weight)
    assert_equal(layer(x), factor * getattr(OF, f"conv{dim}d")(x, weight, None, 2, 1, 1, 2))


@pytest.mark.parametrize("dim", HEADED)
@pytest.mark.parametrize("scale", [1, 1.5])
@pytest.mark.parametrize("channels_inner", [False, True])
def test_a_headed_layer_is_its_function_at_what_the_head_predicts(dim, scale, channels_inner):
    layer = HEADED[dim](4, 6, 3, padding=1, offset_groups=2, mask=True, mask_scale=scale).double()
    torch.nn.init.normal_(layer.conv_offset.weight)
    x = torch.randn(2, 4, *(7, 6, 5)[:dim], dtype=torch.float64)
    x = (x.movedim(1, -1).contiguous().movedim(-1, 1) if channels_inner else x).requires_grad_()
    moved, weighed = layer.conv_offset(x).tensor_split([2 * 3**dim * dim], dim=1)
    function = getattr(OF, f"deform_conv{dim}d")
    want = function(x, moved, layer.weight, layer.bias, padding=1, mask=weighed.sigmoid() * scale)
    assert_close(layer(x), want)
    assert_close(layer(x[1]), want[1])
    leaves = [x, *layer.parameters()]
    grad = torch.randn_like(want)
    pairs = zip(torch.autograd.grad(layer(x), leaves, grad), torch.autograd.grad(want, leaves, grad), strict=True)
    for one, other in pairs:
        assert_close(one, other)


def test_resetting_resets_the_head():
    layer = nn.DeformableConv2d(2, 3, 3)
    torch.nn.init.ones_(layer.conv_offset.weight)
    before = layer.weight.clone()
    layer.reset_parameters()
    assert not layer.conv_offset.weight.any()
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize("dim", HEADED)
def test_a_head_learns(dim):
    """From zeros: the offset's gradient is not 0, so training moves the taps."""
    layer = HEADED[dim](3, 4, 3, padding=1, mask=True, offset_groups=3)
    layer(torch.randn(2, 3, *(6, 5, 4)[:dim])).square().sum().backward()
    for head_channel in layer.conv_offset.bias.grad:
        assert head_channel != 0


def mmcv_state(mask, offset_groups=2):
    """A state dict as ``DeformConv2dPack`` (no bias) or ``ModulatedDeformConv2dPack`` saves it, 4 → 6 channels."""
    heads = offset_groups * 9 * (3 if mask else 2)
    state = {"weight": torch.randn(6, 2, 3, 3), "conv_offset.weight": torch.randn(heads, 4, 3, 3)}
    state["conv_offset.bias"] = torch.randn(heads)
    return state | ({"bias": torch.randn(6)} if mask else {})


@pytest.mark.pitfall(4)
@pytest.mark.parametrize("mask", [False, True])
def test_state_dicts_of_mmcv(mask):
    """The first two thirds of the head are the offsets, the last third is the mask before its sigmoid."""
    state = mmcv_state(mask)
    layer = nn.DeformableConv2d(4, 6, 3, 2, 1, groups=2, bias=mask, offset_groups=2, mask=mask)
    layer.load_state_dict(state)
    x = torch.randn(2, 4, 9, 8)
    head = torch.nn.functional.conv2d(x, state["conv_offset.weight"], state["conv_offset.bias"], 2, 1)
    offset, given = head, None
    if mask:
        first, second, last = head.chunk(3, 1)
        offset, given = torch.cat((first, second), 1), last.sigmoid()
    want = OF.deform_conv2d(x, offset, state["weight"], state.get("bias"), 2, 1, 1, given)
    assert_close(layer(x), want)


def test_state_dicts_of_old_mmcv_and_detectron():
    state = mmcv_state(mask=True)
    old = {"conv1.weight": torch.zeros(1), "x_offset.weight": torch.zeros(1), "block.conv2.weight": state["weight"]}
    old |= {"block.conv2.bias": state["bias"], "block.conv2_offset.weight": state["conv_offset.weight"]}
    old |= {"block.conv2_offset.bias": state["conv_offset.bias"]}
    new = nn.DeformableConv2d.upgraded(old)
    assert {k for k in new if k not in old} == {"block.conv2.conv_offset.weight", "block.conv2.conv_offset.bias"}
    assert {k for k in old if k not in new} == {"block.conv2_offset.weight", "block.conv2_offset.bias"}
    assert nn.DeformableConv2d.upgraded(new) == new
    layer = nn.DeformableConv2d(4, 6, 3, groups=2, offset_groups=2, mask=True)
    layer.load_state_dict({k.removeprefix("block.conv2."): v for k, v in new.items() if k.startswith("block.")})


@pytest.mark.pitfall(7)
def test_a_head_stays_in_float32_under_autocast():
    layer = nn.DeformableConv2d(3, 4, 3, padding=1, mask=True)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    seen = []
    layer.conv_offset.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    x = torch.randn(2, 3, 8, 7)
    with torch.autocast("cpu", torch.bfloat16):
        output, again = layer(x), layer(x.bfloat16())
    assert output.dtype == again.dtype == torch.bfloat16
    assert seen == [(torch.float32, torch.float32)] * 2
    assert_close(output, layer(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_layer_in_another_dtype(dtype):
    layer = nn.DeformableConv2d(3, 4, 3, padding=1, mask=True, dtype=dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    assert layer(torch.randn(1, 3, 5, 5, dtype=dtype)).dtype == dtype


def test_a_layer_copies_pickles_and_meets_meta():
    layer = nn.DeformableConv2d(4, 6, 3, padding=1, offset_groups=2, mask=True, mask_scale=2)
    x = torch.randn(1, 4, 6, 6)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301  # its own bytes
        assert_equal(other(x), layer(x))
    bare = nn.DeformableConv2d(4, 6, 3, padding=1, mask=True, device="meta")
    assert bare(x.to("meta")).shape == (1, 6, 6, 6)
    assert "offset_groups=2, mask=True, mask_scale=2" in repr(layer)


def test_a_head_on_a_layer_of_torch():
    conv = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
    x = torch.randn(2, 4, 9, 8)
    assert_close(nn.DeformableConv2d.from_torch(conv)(x), conv(x))


@pytest.mark.parametrize(("head", "mask"), [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_layers_from_problems(head, mask, bias):
    problem = ConvProblem.of(
        "deformable", 1, 4, 6, 3, 2, "causal", 2, 2, bias=bias, head=head, mask=mask, offset_groups=2, in_size=9
    )
    layer = families()["deformable"].layer_of(problem)
    assert type(layer) is (HEADED if head else DEFORM)[1]
    assert sum(p.numel() for p in layer.parameters()) == family_of(problem).cost(problem).params
    if head:
        assert layer(torch.randn(1, 4, 9)).shape == (1, 6, *problem.out_size)


# The published rows: 64 → 128 at 56×56, and 16 → 32 at 20×24 with the head, v1 and v2.
COSTS = {
    "deformable:n1_c64_o128_i56x56_k3x3_pad1_head=1_mask=0_offset-groups=1": (84_096, 231_211_008 + 32_514_048),
    "deformable:n1_c64_o128_i56x56_k3x3_pad1_head=0_mask=0_offset-groups=1": (73_728, 231_211_008),
    "deformable:n1_c16_o32_i20x24_k3x3_pad1_head=1_mask=0_offset-groups=1": (7_200, 3_456_000),
    "deformable:n1_c16_o32_i20x24_k3x3_pad1_head=1_mask=1_offset-groups=1": (8_496, 4_078_080),
    "deformable:n1_c4_o6_i5x4x6_k3x1x2_b_head=1_mask=0_offset-groups=2": (150 + 900, 8_640 + 51_840),
    "deformable:n2_c8_o4_i9_k3_s2_pad1_b_head=1_mask=1_offset-groups=4": (100 + 600, 960 + 5_760),
}


@pytest.mark.pitfall(44)
@pytest.mark.parametrize("text", COSTS)
def test_cost(text):
    problem = ConvProblem.parse(text)
    cost = family_of(problem).cost(problem)
    assert (cost.params, cost.macs) == COSTS[text]
    taps, outs = math.prod(problem.kernel_size), math.prod(problem.out_size)
    assert cost.sampling == problem.batch * outs * taps * problem.in_channels * 2**problem.dim


def test_compared_with_its_head():
    row = {row.family: row for row in omniconv.compare(64, 128, 56).rows}["deformable"]
    assert (row.params, row.macs) == (84_096, 263_725_056)
    _, setting = named_settings()["deformable"]
    problem = setting.build(Position(4, 6, (9,), (3,), (2,), (1,), bias=True))
    assert problem["head"] == 1
    assert families()["deformable"].unbounded(problem)


def test_calls_of_torchvision_are_known():
    call = {"input": (2, 6, 9, 8), "weight": (4, 3, 3, 3), "use_mask": True, "groups": 2, "offset_groups": 3}
    for name, value in {"stride": (2, 1), "pad": (1, 0), "dilation": (1, 2)}.items():
        call |= {f"{name}_h": value[0], f"{name}_w": value[1]}
    problem = families()["deformable"].outside["torchvision::deform_conv2d"](call)
    assert str(problem) == "deformable:n2_c6_o4_i9x8_k3x3_s2x1_d1x2_g2_pad1x0_b_head=0_mask=1_offset-groups=3"


X, W = torch.zeros(1, 4, 5, 5), torch.zeros(6, 4, 3, 3)


def deform(*shape, weight=W, mask=None):
    """Four channels of 5×5 with an offset of that shape."""
    return lambda: OF.deform_conv2d(X, torch.zeros(shape), weight, mask=mask)


def headed(**options):
    return lambda: nn.DeformableConv2d(4, 6, 3, **options)


def of_kind(kind, only_offset=True):
    """All tensors of one dtype, or the offset alone."""
    x, weight = (X, W) if only_offset else (X.to(kind), W.to(kind))
    return lambda: OF.deform_conv2d(x, torch.zeros(1, 18, 3, 3, dtype=kind), weight)


ERRORS = [
    (deform(1, 17, 3, 3), ValueError, "`offset` channels (=17) must be a multiple of 18"),
    (deform(1, 9, 3, 3), ValueError, "use 18"),
    (deform(1, 40, 3, 3), ValueError, "use 36"),
    (deform(1, 0, 3, 3), ValueError, "`offset` channels (=0)"),
    (deform(1, 54, 3, 3), ValueError, "`offset_groups` (=3) must divide `in_channels` (=4); use"),
    (deform(1, 18, 5, 5), ValueError, "`offset` shape (=(1, 18, 5, 5)) must be (1, 18, 3, 3)"),
    (deform(2, 18, 3, 3), ValueError, "must be (1, 18, 3, 3)"),
    (deform(18, 3, 3), ValueError, "`offset` shape"),
    (deform(3, 3), ValueError, "`offset` has 2 dimensions"),
    (deform(1, 18, 3, 3, mask=torch.zeros(1, 18, 3, 3)), ValueError, "`mask` shape"),
    (deform(1, 18, 3, 3, weight=torch.zeros(6, 3, 3, 3)), ValueError, "must divide `in_channels` (=4)"),
    (deform(1, 18, 3, 3, weight=torch.zeros(3, 2, 3, 3)), ValueError, "`out_channels` (=3)"),
    (lambda: OF.deform_conv2d(X, None, W), TypeError, "`offset` (=NoneType)"),
    (of_kind(torch.int64), TypeError, "`offset` dtype (=torch.int64)"),
    (of_kind(torch.float64), TypeError, "`offset` dtype (=torch.float64)"),
    (of_kind(torch.complex64, only_offset=False), TypeError, "must be real"),
    (lambda: nn.DeformConv2d(4, 6, 3, groups=3), ValueError, "`groups` (=3) must divide"),
    (headed(offset_groups=3), ValueError, "`offset_groups` (=3) must divide `in_channels` (=4)"),
    (headed(offset_groups=0), ValueError, "`offset_groups` (=0)"),
    (headed(mask=1), TypeError, "`mask` (=1) must be True or False"),
    (headed(mask=True, mask_scale=0), ValueError, "`mask_scale` (=0) must be above 0"),
    (headed(mask=True, mask_scale="2"), TypeError, "`mask_scale` (='2')"),
    (lambda: families()["deformable"].check(ConvProblem.parse("deformable:c4_o4_k3")), ValueError, "offset_groups=1"),
]


@pytest.mark.pitfall(5)
@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_errors_say_what_would_be_right(number):
    call, kind, text = ERRORS[number]
    with pytest.raises(kind, match=re.escape(text)):
        call()
