# SPDX-License-Identifier: Apache-2.0
"""Laws of the deformable convolution: what it reduces to, which tap an offset moves, what it reads at the border."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from omniconv.core.family import family_of
from omniconv.core.problem import ConvProblem
from tolerance import assert_close, assert_equal

DEFORM = {d: getattr(OF, f"deform_conv{d}d") for d in (1, 2, 3)}
CONV = {d: getattr(OF, f"conv{d}d") for d in (1, 2, 3)}
NAN, INF = math.nan, math.inf


def whole(*shape):
    """Small whole numbers in float64: every sum of their products is exact."""
    return torch.randint(-3, 4, shape).double()


@st.composite
def problems(draw):
    """An ordinary convolution with an input size, in 1 to 3 dimensions, and a number of offset groups."""
    dim, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    most = 3 if dim < 3 else 2
    axes = [
        {
            "kernel_size": draw(st.integers(1, most)),
            "stride": draw(st.integers(1, 3)),
            "dilation": draw(st.integers(1, 2)),
            "padding": draw(st.sampled_from([(0, 0), (1, 1), (0, 2), (3, 1), "tf_same", "same_lower"])),
            "in_size": draw(st.integers(1, 6)),
        }
        for _ in range(dim)
    ]
    for axis in axes:
        axis["in_size"] += axis["dilation"] * (axis["kernel_size"] - 1)
    arguments = {name: tuple(axis[name] for axis in axes) for name in axes[0]}
    channels = groups * draw(st.sampled_from([1, 2, 4]))
    mode = draw(st.sampled_from(["zeros", "zeros", "replicate"]))
    shared = draw(st.sampled_from([q for q in range(1, channels + 1) if channels % q == 0]))
    outputs = groups * draw(st.integers(1, 2))
    return ConvProblem.of("conv", dim, channels, outputs, groups=groups, padding_mode=mode, **arguments), shared


def tensors_of(problem, shared, batch=2):
    """Whole numbers for input and weight, offsets of zero and masks of one."""
    taps = math.prod(problem.kernel_size)
    x = whole(batch, problem.in_channels, *problem.in_size)
    weight = whole(problem.out_channels, problem.in_channels // problem.groups, *problem.kernel_size)
    offset = x.new_zeros(batch, shared * taps * problem.dim, *problem.out_size)
    return x, offset, weight, x.new_ones(batch, shared * taps, *problem.out_size)


@pytest.mark.pitfall(6)
@settings(max_examples=120)
@given(problems(), st.booleans())
def test_zero_offsets_give_the_ordinary_convolution(made, masked):
    problem, shared = made
    x, offset, weight, mask = tensors_of(problem, shared)
    numbers = problem.stride, problem.padding, problem.dilation
    mode = {"padding_mode": problem.padding_mode}
    want = CONV[problem.dim](x, weight, None, *numbers, problem.groups, **mode)
    got = DEFORM[problem.dim](x, offset, weight, None, *numbers, mask if masked else None, **mode)
    assert_equal(got, want)


@pytest.mark.pitfall(6)
def test_zero_offsets_give_the_ordinary_convolution_to_rounding():
    x, weight, bias = torch.randn(2, 16, 13, 11), torch.randn(8, 16, 3, 3), torch.randn(8)
    got = OF.deform_conv2d(x, torch.zeros(2, 18, 13, 11), weight, bias, padding=1)
    terms = F.conv2d(x.double().abs(), weight.double().abs(), bias.double().abs(), padding=1)
    assert_close(got, F.conv2d(x.double(), weight.double(), bias.double(), padding=1), terms=terms)


@pytest.mark.pitfall(4)
def test_a_mask_weighs_samples_as_it_is():
    """No activation, no normalisation, negative weights too."""
    x, weight, factor = whole(2, 3, 6, 5), whole(4, 3, 2, 3), whole(1, 6, 1, 1)
    offset = whole(2, 12, 5, 3)
    got = OF.deform_conv2d(x, offset, weight, mask=factor.expand(2, 6, 5, 3))
    assert_equal(got, OF.deform_conv2d(x, offset, weight * factor.view(1, 1, 2, 3)))


GEOMETRIES = {
    1: {"size": (8,), "kernel": (3,), "stride": (2,), "dilation": (2,), "pads": ((1, 2),)},
    2: {"size": (7, 5), "kernel": (3, 2), "stride": (2, 1), "dilation": (1, 2), "pads": ((1, 1), (0, 2))},
    3: {
        "size": (4, 3, 5),
        "kernel": (2, 1, 3),
        "stride": (1, 2, 1),
        "dilation": (1, 1, 2),
        "pads": ((1, 0), (2, 1), (1, 1)),
    },
}


@pytest.mark.pitfall(3)
@pytest.mark.parametrize("dim", GEOMETRIES)
def test_one_channel_of_the_offset_moves_one_tap_along_one_axis(dim):
    """Channel k·dim + axis, axes as in the input, taps row by row: in every other order some case is red."""
    about = GEOMETRIES[dim]
    kernel, numbers = about["kernel"], (about["stride"], 0, about["dilation"])
    x, weight = whole(2, 2, *about["size"]), whole(3, 2, *kernel)
    flat = [p for pair in reversed(about["pads"]) for p in pair]
    still = F.pad(x, flat)
    outs = CONV[dim](still, weight, None, *numbers).shape[2:]
    for k, tap in enumerate(product(*map(range, kernel))):
        only = torch.zeros_like(weight)
        only[(..., *tap)] = weight[(..., *tap)]
        for axis in range(dim):
            longer = [p + (i == 2 * (dim - 1 - axis) + 1) for i, p in enumerate(flat)]
            moved = F.pad(x, longer).narrow(axis + 2, 1, still.shape[axis + 2])
            want = CONV[dim](still, weight - only, None, *numbers) + CONV[dim](moved, only, None, *numbers)
            offset = x.new_zeros(2, dim * math.prod(kernel), *outs)
            offset[:, k * dim + axis] = 1
            got = DEFORM[dim](x, offset, weight, None, about["stride"], about["pads"], about["dilation"])
            assert_equal(got, want)


@settings(max_examples=40)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2))
def test_offsets_that_every_output_shares_are_a_kernel_with_other_taps(height, width, stride):
    """Whole offsets, one per tap: the convolution whose taps stand where the offsets put them."""
    x, weight = whole(2, 2, 9, 8), whole(3, 2, height, width)
    moves = torch.randint(-4, 5, (height, width, 2))
    wide = weight.new_zeros(3, 2, height + 8, width + 8)
    for i, j in product(range(height), range(width)):
        dy, dx = moves[i, j].tolist()
        wide[:, :, i + dy + 4, j + dx + 4] += weight[:, :, i, j]
    want = F.conv2d(x, wide, stride=stride, padding=4 + 1)
    offset = moves.double().view(1, -1, 1, 1).expand(2, -1, *want.shape[2:])
    assert_equal(OF.deform_conv2d(x, offset, weight, stride=stride, padding=1), want)


def read(x, *position):
    """What one tap of weight 1 reads from ``x`` at a position."""
    dim = x.dim() - 2
    offset = x.new_zeros(1, dim, *x.shape[2:])
    offset[(..., *[0] * dim)] = torch.tensor(position, dtype=x.dtype)
    return DEFORM[dim](x, offset, x.new_ones(1, 1, *[1] * dim))[(0, 0, *[0] * dim)]


EPSILON = 2.0**-10
# x = 8, 16, 40: the value between is linear, and the outermost position fades to 0 over one step.
AT = {
    -1.0: 0.0, -1 + EPSILON: 8 * EPSILON, -0.5: 4.0, 0.0: 8.0, 0.25: 10.0, 2.0: 40.0, 2.5: 20.0, 3.0: 0.0,
    3 - EPSILON: 40 * EPSILON, -1 - EPSILON: 0.0, 3 + EPSILON: 0.0, -1.5: 0.0, 1e9: 0.0, -1e9: 0.0, 3e38: 0.0,
    INF: 0.0, -INF: 0.0,
}  # fmt: skip


@pytest.mark.pitfall(1)
@pytest.mark.parametrize("position", AT)
def test_border(position):
    line = torch.tensor([[[8.0, 16.0, 40.0]]])
    want = torch.tensor(AT[position])
    assert_equal(read(line, position), want)
    for axis in range(2):
        shape = (1, 1, 3, 1) if axis == 0 else (1, 1, 1, 3)
        plane = line.view(shape)
        assert_equal(read(plane, *((position, 0.0) if axis == 0 else (0.0, position))), want)


@pytest.mark.pitfall(1)
def test_an_offset_that_is_not_a_number_gives_nan_there_and_nowhere_else():
    x, weight = torch.randn(1, 3, 5, 6), torch.randn(2, 3, 3, 3)
    offset = torch.randn(1, 18, 5, 6)
    want = OF.deform_conv2d(x, offset, weight, padding=1)
    offset[0, 4, 2, 3] = NAN
    got = OF.deform_conv2d(x, offset, weight, padding=1)
    assert bool(got[0, :, 2, 3].isnan().all())
    got[0, :, 2, 3] = want[0, :, 2, 3]
    assert_equal(got, want)


@pytest.mark.pitfall(1)
@pytest.mark.parametrize("value", [1e9, -1e9, INF, -INF])
def test_far_offsets_read_nothing_and_have_no_gradient(value):
    x, weight = torch.randn(2, 2, 4, 3, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    offset = torch.full((2, 18, 4, 3), value, requires_grad=True)
    mask = torch.ones(2, 9, 4, 3, requires_grad=True)
    output = OF.deform_conv2d(x, offset, weight, padding=1, mask=mask)
    assert_equal(output, torch.zeros_like(output))
    for grad in torch.autograd.grad(output.sum(), (x, offset, weight, mask)):
        assert_equal(grad, torch.zeros_like(grad))


@pytest.mark.pitfall(2)
@pytest.mark.parametrize(
    ("position", "slope"),
    [
        (-1 - EPSILON, 0.0),
        (-1.0, 8.0),
        (-0.5, 8.0),
        (0.0, 8.0),
        (0.5, 8.0),
        (1.0, 24.0),
        (2.0, -40.0),
        (2.5, -40.0),
        (3.0, 0.0),
    ],
)
def test_slope_of_a_coordinate_looks_to_the_right(position, slope):
    """As torchvision's, which at exactly -1 is not 0."""
    x = torch.tensor([[[8.0, 16.0, 40.0]]])
    offset = torch.tensor([[[position, 0.0, 0.0]]], requires_grad=True)
    OF.deform_conv1d(x, offset, torch.ones(1, 1, 1))[0, 0, 0].backward()
    assert_equal(offset.grad[0, 0, 0], torch.tensor(slope))


@pytest.mark.pitfall(2)
def test_slopes_beside_the_image():
    """At y = -1 the slope along y is row 0 between its pixels; along x it is 0, as row -1 is."""
    x = torch.tensor([[[[8.0, 16.0], [1.0, 2.0]]]])
    offset = torch.tensor([-1.0, 0.25]).view(1, 2, 1, 1).requires_grad_()
    OF.deform_conv2d(x, offset, torch.ones(1, 1, 1, 1), stride=2).sum().backward()
    assert offset.grad.flatten().tolist() == [10.0, 0.0]


def by_grid_sample(x, offset, weight, stride, padding, dilation, mask):
    """The formula through ``grid_sample``, tap by tap; one offset group."""
    dim, size = x.dim() - 2, x.shape[2:]
    total = 0
    for k, tap in enumerate(product(*map(range, weight.shape[2:]))):
        axes = []
        for axis in range(dim):
            at = torch.arange(offset.shape[2 + axis]) * stride - padding + tap[axis] * dilation
            at = at.view(-1, *[1] * (dim - 1 - axis)) + offset[:, k * dim + axis]
            axes.append(2 * at / (size[axis] - 1) - 1)
        sampled = F.grid_sample(x, torch.stack(axes[::-1], -1), padding_mode="zeros", align_corners=True)
        sampled = sampled * mask[:, k : k + 1]
        total = total + torch.einsum("nc...,oc->no...", sampled, weight[(..., *tap)])
    return total


@pytest.mark.pitfall(1)
@pytest.mark.parametrize("dim", [2, 3])
def test_values_and_gradients_of_grid_sample(dim):
    size, kernel = (6, 7, 4)[:dim], (3, 2, 2)[:dim]
    outs = CONV[dim](torch.zeros(1, 1, *size), torch.zeros(1, 1, *kernel), None, 2, 2, 2).shape[2:]
    taps = math.prod(kernel)
    shapes = (2, 3, *size), (2, dim * taps, *outs), (4, 3, *kernel), (2, taps, *outs)
    x, offset, weight, mask = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    got = DEFORM[dim](x, 2 * offset, weight, None, 2, 2, 2, mask)
    want = by_grid_sample(x, 2 * offset, weight, 2, 2, 2, mask)
    assert_close(got, want)
    into = torch.randn_like(got)
    leaves = (x, offset, weight, mask)
    pairs = zip(torch.autograd.grad(got, leaves, into), torch.autograd.grad(want, leaves, into), strict=True)
    for one, other in pairs:
        assert_close(one, other)


@pytest.mark.pitfall(5)
@pytest.mark.parametrize(("shared", "groups"), [(1, 2), (2, 1), (3, 2), (6, 3), (4, 6), (12, 12)])
def test_offset_groups_and_weight_groups_are_independent(shared, groups):
    """Channel c has offset group c // (C/q) and weight group c // (C/G): the sum of C convolutions of one channel."""
    c, o, taps = 12, 12, 6
    x, weight = whole(2, c, 5, 6), whole(o, c // groups, 2, 3)
    offset, mask = whole(2, shared * taps * 2, 4, 4) / 2, whole(2, shared * taps, 4, 4)
    want = torch.zeros(2, o, 4, 4, dtype=torch.float64)
    for channel in range(c):
        q, g = channel // (c // shared), channel // (c // groups)
        own = slice(g * (o // groups), (g + 1) * (o // groups))
        want[:, own] += OF.deform_conv2d(
            x[:, channel : channel + 1],
            offset[:, q * 2 * taps : (q + 1) * 2 * taps],
            weight[own, channel % (c // groups)].unsqueeze(1),
            mask=mask[:, q * taps : (q + 1) * taps],
        )
    assert_equal(OF.deform_conv2d(x, offset, weight, mask=mask), want)


@pytest.mark.pitfall(7)
@pytest.mark.parametrize(("dtype", "length"), [(torch.bfloat16, 700), (torch.float16, 5000)])
@pytest.mark.parametrize("autocast", [False, True])
def test_positions_stay_exact_in_short_types(dtype, length, autocast):
    """A bfloat16 holds only even numbers from 256 on, a float16 from 2048 on: taps beyond would read a neighbour."""
    x = (torch.arange(length) % 7).view(1, 1, -1).to(torch.float32 if autocast else dtype)
    offset = torch.full((1, 3, length), 0.5, dtype=dtype)
    weight = torch.tensor([[[0.0, 2.0, 0.0]]]).to(x.dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        got = OF.deform_conv1d(x, offset, weight, padding=1)
    assert got.dtype == dtype
    between = x.double() + F.pad(x.double(), (0, 1))[..., 1:]
    assert_equal(got, between)


@pytest.mark.pitfall(7)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_far_offsets_as_they_are(dtype, compiled):
    """A bfloat16 rounds 2301.5 to 2304, a float16 to 2302."""
    x, weight, offset = torch.zeros(1, 1, 2400), torch.ones(1, 1, 1), torch.full((1, 1, 2400), 2301.5)
    x[..., 2301], x[..., 2302] = 2.0, 4.0
    function = torch.compile(OF.deform_conv1d, fullgraph=True) if compiled else OF.deform_conv1d
    with torch.autocast("cpu", dtype):
        assert function(x, offset, weight)[0, 0, 0].item() == 3


@pytest.mark.pitfall(8)
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 13, 37])
def test_any_batch_is_its_samples_one_by_one(batch):
    x, weight = whole(batch, 2, 4, 3), whole(2, 2, 2, 2)
    offset = whole(batch, 8, 3, 2) / 2
    want = torch.cat([OF.deform_conv2d(x[i : i + 1], offset[i : i + 1], weight) for i in range(batch)])
    assert_equal(OF.deform_conv2d(x, offset, weight), want)


@pytest.mark.pitfall(9)
@pytest.mark.parametrize("size", [(1, 6), (6, 1), (1, 1)])
def test_one_row_one_column_one_pixel(size):
    """An axis of one position is an ordinary one: half a step away from it half is left."""
    x, weight = whole(2, 3, *size), whole(4, 3, 1, 1)
    for axis, count in enumerate(size):
        offset = x.new_zeros(2, 2, *size)
        offset[:, axis] = -0.5
        before = F.pad(x, [1, 0] + [0, 0] * (1 - axis) if axis else [0, 0, 1, 0]).narrow(axis + 2, 0, count)
        assert_equal(OF.deform_conv2d(x, offset, weight), F.conv2d((x + before) / 2, weight))


@pytest.mark.pitfall(9)
def test_no_samples_and_too_small_an_input():
    empty = OF.deform_conv2d(torch.zeros(0, 2, 4, 4), torch.zeros(0, 18, 4, 4), torch.zeros(3, 2, 3, 3), padding=1)
    assert empty.shape == (0, 3, 4, 4)
    with pytest.raises(ValueError, match=r"`input` size \(=2\) on spatial axis 0 is too small.*use 3 or more"):
        OF.deform_conv2d(torch.zeros(1, 2, 2, 4), torch.zeros(1, 18, 1, 2), torch.zeros(3, 2, 3, 3))


@pytest.mark.parametrize("dim", [1, 2])
def test_gradients_have_gradients_to_every_tensor(dim):
    size, kernel, outs = (4, 3)[:dim], (2, 2)[:dim], (3, 2)[:dim]
    taps = 2**dim
    shapes = (1, 4, *size), (1, 2 * taps * dim, *outs), (2, 2, *kernel), (2,), (1, 2 * taps, *outs)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]

    def function(x, offset, weight, bias, mask):
        return DEFORM[dim](x, offset, weight, bias, mask=mask)

    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_outside_the_padding_of_every_mode_is_zero():
    """Positions are those of the padded input: it may be padded first, and nothing changes."""
    x, weight = whole(1, 2, 5, 4), whole(3, 2, 3, 3)
    offset = 2 * whole(1, 18, 6, 5)
    for mode in ("reflect", "replicate", "circular"):
        got = OF.deform_conv2d(x, offset, weight, padding=((2, 1), (1, 2)), padding_mode=mode)
        assert_equal(got, OF.deform_conv2d(F.pad(x, (1, 2, 2, 1), mode=mode), offset, weight))


@pytest.mark.pitfall(1)
@pytest.mark.parametrize("shift", [-50.0, 50.0, float("inf"), -float("inf")])
def test_infinite_data_is_not_read_from_outside(shift):
    x = torch.tensor([[[float("inf"), 1.0, float("inf")]]], dtype=torch.float64)
    offset, weight = torch.full((1, 1, 3), shift, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64)
    problem = ConvProblem.parse("deformable:n1_c1_o1_i3_k1_head=0_mask=0_offset-groups=1")
    zeros = torch.zeros(1, 1, 3, dtype=torch.float64)
    assert torch.equal(OF.deform_conv1d(x, offset, weight), zeros)
    assert torch.equal(family_of(problem).part("reference").reference(problem, x, offset, weight, None, None), zeros)
