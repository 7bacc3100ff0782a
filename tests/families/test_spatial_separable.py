# SPDX-License-Identifier: Apache-2.0
"""Laws of the spatially separable convolution: it is a dense one whose kernel is a sum of outer products."""

from __future__ import annotations

import re
from math import sqrt

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.family import Position, families
from omniconv.core.family import settings as named_settings
from omniconv.core.observe import listening
from omniconv.core.problem import PADDING_MODES, ConvProblem
from omniconv.core.taps import count_products, field_of_path
from tolerance import assert_close, assert_equal, tolerance

LAYERS = {2: nn.SpatialSeparableConv2d, 3: nn.SpatialSeparableConv3d}
DENSE = {2: OF.conv2d, 3: OF.conv3d}
SOBEL = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
LAPLACE = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])


def whole(*shape):
    """Small whole numbers in float64: every sum of their products is exact."""
    return torch.randint(-3, 4, shape).double()


def filled(layer):
    """The layer with small whole numbers for weights."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(*parameter.shape))
    return layer


@st.composite
def layers(draw):
    """A layer of whole numbers and an input: any padding, mode, stride, dilation, groups and channels between."""
    dim, groups, mode = draw(st.integers(2, 3)), draw(st.integers(1, 2)), draw(st.sampled_from(PADDING_MODES))
    kernel, stride, dilation = (
        tuple(draw(st.integers(1, most)) for _ in range(dim)) for most in ((4, 3, 2) if dim == 2 else (3, 2, 2))
    )
    pair = st.tuples(st.integers(0, 3), st.integers(0, 3))
    padding = tuple(draw(st.one_of(pair, st.sampled_from(("valid", "tf_same", "same_lower")))) for _ in range(dim))
    channels = tuple(groups * draw(st.integers(1, 3)) for _ in range(3))
    layer = LAYERS[dim](
        *channels[:2],
        kernel,
        stride,
        padding,
        dilation,
        groups,
        draw(st.booleans()),
        mode,
        dtype=torch.float64,
        mid_channels=channels[2],
    )
    sizes = tuple(draw(st.integers(1, 7)) + d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    try:
        layer.problem.at(sizes)
    except ValueError:
        assume(condition=False)
    return filled(layer), whole(2, channels[0], *sizes)


@settings(max_examples=120)
@given(layers())
def test_equals_one_dense_convolution_of_the_summed_outer_products(case):
    layer, x = case
    dense = layer.to_dense()
    assert dense.weight.shape == (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    assert_equal(layer(x), dense(x))


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("dim", [2, 3])
def test_equals_torchs_convolutions_in_sequence_and_is_drawn_like_them(dim, depthwise):
    own = {"stride": (2, 1, 1), "padding": (1, 2, 0), "dilation": (1, 2, 1)}
    torch.manual_seed(1)
    layer = LAYERS[dim](4, 8, (3, 5, 2)[:dim], **{k: v[:dim] for k, v in own.items()}, depthwise=depthwise)
    torch.manual_seed(1)
    parts, groups = [], 4 if depthwise else 1
    for axis in range(dim):
        one = {
            name: tuple(v[axis] if a == axis else int(name != "padding") for a in range(dim)) for name, v in own.items()
        }
        kernel = tuple((3, 5, 2)[axis] if a == axis else 1 for a in range(dim))
        kind = (torch.nn.Conv2d, torch.nn.Conv3d)[dim - 2]
        last = axis == dim - 1
        parts.append(kind(4, 8 if last else 4, kernel, groups=groups, bias=last, **one))
    sequence = torch.nn.Sequential(*parts)
    for mine, other in zip(layer.parameters(), sequence.parameters(), strict=True):
        assert_close(mine, other)
    layer.load_state_dict(dict(zip(layer.state_dict(), sequence.state_dict().values(), strict=True)))
    x = torch.randn(2, 4, *(9, 12, 7)[:dim])
    assert_equal(layer(x), sequence(x))


@pytest.mark.parametrize("kernel", [SOBEL, SOBEL.int(), SOBEL.tolist(), SOBEL.bfloat16()])
def test_sobel_is_met_to_the_last_bit(kernel):
    layer = nn.SpatialSeparableConv2d.from_kernel(kernel, groups=3, padding=1)
    assert layer.factoring.error == 0
    assert (layer.factoring.rank, layer.mid_channels) == (1, 3)
    for channel in range(3):
        assert layer.column_weight[channel].flatten().tolist() == [1, 2, 1]
        assert layer.row_weight[channel].flatten().tolist() == [1, 0, -1]
    assert_equal(layer.to_dense().weight.float(), SOBEL.expand(3, 1, 3, 3))


@given(st.data())
def test_an_outer_product_of_whole_numbers_is_met_to_the_last_bit(data):
    dim = data.draw(st.integers(2, 3))
    number = st.integers(-50, 50).map(float)
    vectors = [torch.tensor(data.draw(st.lists(number, min_size=1, max_size=4))) for _ in range(dim)]
    kernel = torch.einsum("i,j->ij" if dim == 2 else "i,j,k->ijk", *vectors) * 2.0 ** data.draw(st.integers(-9, 9))
    layer = LAYERS[dim].from_kernel(kernel)
    assert layer.factoring.error == 0
    assert_equal(layer.to_dense().weight[0, 0], kernel)


def test_every_slice_its_own_outer_product():
    """The two Sobel kernels need two columns; four channels that share a column and a row need one channel between."""
    both = torch.stack([SOBEL, SOBEL.T])[:, None]
    layer = nn.SpatialSeparableConv2d.from_kernel(both)
    assert (layer.mid_channels, layer.factoring.error) == (2, 0)
    assert_equal(layer.to_dense().weight, both)
    shared = SOBEL * torch.tensor([1.0, 2.0, 3.0, -1.0]).view(1, 4, 1, 1)
    layer = nn.SpatialSeparableConv2d.from_kernel(shared)
    assert (layer.mid_channels, layer.factoring.error) == (1, 0)
    assert_equal(layer.to_dense().weight, shared)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_rounded_outer_product_is_met_to_rounding(dtype):
    gauss = torch.exp(-(torch.linspace(-2, 2, 7, dtype=torch.float64) ** 2))
    layer = nn.SpatialSeparableConv2d.from_kernel(torch.outer(gauss, gauss / 3).to(dtype))
    assert layer.factoring.rank == layer.factoring.numerical_rank == 1
    assert 0 < layer.factoring.error < tolerance(dtype, 1.0)


@pytest.mark.parametrize("rank", [1, 2, 5, 9])
def test_at_a_rank_no_sum_of_products_is_closer(rank):
    kernel = torch.randn(4, 3, 3, 5, dtype=torch.float64)
    layer = nn.SpatialSeparableConv2d.from_kernel(kernel, rank=rank)
    values = torch.linalg.svdvals(kernel.permute(1, 2, 0, 3).reshape(9, 20))
    kept = layer.to_dense().weight
    assert_close((kept - kernel).norm() + kernel.norm(), values[rank:].norm() + values.norm())
    assert_close(layer.factoring.error * kernel.norm() + kernel.norm(), values[rank:].norm() + values.norm())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_sum_of_products_is_computed_as_its_dense_kernel(dim, rank, groups):
    """Each product is a column that holds its input channels, and a row that holds its output channels."""
    sizes = (3, 4, 5)[:dim]
    columns = torch.randn(groups, rank, 2, sizes[0], dtype=torch.float64)
    rows = torch.randn(groups, rank, 3, sizes[-1], dtype=torch.float64)
    middles = torch.randn(groups, rank, *sizes[1:-1], dtype=torch.float64)
    kernel = torch.einsum("grca,grob,gr...->goca...b", columns, rows, middles).flatten(0, 1)
    bias = torch.randn(3 * groups, dtype=torch.float64)
    layer = LAYERS[dim].from_kernel(kernel, rank, groups=groups, bias=bias, stride=2, padding=1)
    assert layer.mid_channels == rank * groups
    assert layer.factoring.error < tolerance(torch.float64, 1.0)
    x = torch.randn(2, 2 * groups, *(6, 7, 8)[:dim], dtype=torch.float64)
    assert_close(layer(x), DENSE[dim](x, kernel, bias, 2, 1, 1, groups))


def test_three_axes_are_within_root_two_of_the_closest():
    kernel = torch.randn(3, 2, 3, 4, 3, dtype=torch.float64)
    joint = kernel.permute(1, 2, 3, 0, 4).reshape(6, 4, 9)
    for rank in (1, 2, 4):
        tails = [torch.linalg.svdvals(m)[rank:].square().sum() for m in (joint.flatten(1), joint.flatten(0, 1))]
        error = nn.SpatialSeparableConv3d.from_kernel(kernel, rank=rank).factoring.error
        least = sqrt(max(tails)) / float(kernel.norm())
        assert least <= error <= sqrt(2) * least


def test_what_is_not_separable_is_refused_with_its_rank():
    with pytest.raises(ValueError, match=re.escape("is not separable: its rank is 2 (numerical)")) as caught:
        nn.SpatialSeparableConv2d.from_kernel(LAPLACE)
    assert "use `rank`=2" in str(caught.value)
    assert "`rank`=1: relative error 0.101" in str(caught.value)
    mixed = torch.stack([SOBEL, LAPLACE])[:, None]
    with pytest.raises(ValueError, match="1 of its 2 slices have ranks up to 2"):
        nn.SpatialSeparableConv2d.from_kernel(mixed)
    with pytest.raises(ValueError, match=r"`rank` \(=1\) leaves a relative error of 0.101, above .*use `rank`=2"):
        nn.SpatialSeparableConv2d.from_kernel(LAPLACE, rank=1, tolerance=0.1)
    with pytest.raises(ValueError, match="which is rounding"):
        nn.SpatialSeparableConv2d.from_kernel(LAPLACE, rank=2, tolerance=0.0)
    assert (
        str(nn.SpatialSeparableConv2d.from_kernel(LAPLACE, rank=1).factoring) == "1 of 2 products, relative error 0.101"
    )


def test_a_tolerance_chooses_the_least_rank():
    kernel = torch.randn(6, 4, 3, 3, dtype=torch.float64)
    for asked in (0.99, 0.8, 0.5, 0.2, 0.01):
        layer = nn.SpatialSeparableConv2d.from_kernel(kernel, tolerance=asked)
        rank = layer.factoring.rank
        assert layer.factoring.error <= asked
        assert rank > 1 or asked == 0.99
        if rank > 1:
            assert nn.SpatialSeparableConv2d.from_kernel(kernel, rank=rank - 1).factoring.error > asked


@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_of_zeros(groups):
    layer = nn.SpatialSeparableConv2d.from_kernel(torch.zeros(2, 2 // groups, 3, 3), groups=groups)
    assert layer.factoring.error == 0
    assert_equal(layer.to_dense().weight, torch.zeros(2, 2 // groups, 3, 3))


def test_counts():
    _, setting = named_settings()["spatial-separable"]
    problem = setting.build(Position(64, 128, (56, 56), (3, 3), (1, 1), (1, 1)))
    cost = families()["spatial_separable"].cost(problem)
    assert (cost.params, cost.macs) == (36_864, 36_864 * 56 * 56)
    assert [step.name for step in cost.steps] == ["3×1 pass", "1×3 pass"]


@pytest.mark.parametrize("text", families()["spatial_separable"].cases.values())
def test_counts_and_field_are_those_of_the_passes(text):
    problem = ConvProblem.parse(text)
    family = families()["spatial_separable"]
    assert family.cost(problem).macs == sum(count_products(part).all_taps for part in family.path(problem))
    assert tuple(axis.size for axis in field_of_path(family.path(problem))) == problem.span
    steps = family.cost(problem).steps
    assert [step.bias for step in steps] == [0] * (problem.dim - 1) + [problem.out_channels * problem.bias]


def test_a_listener_sees_one_convolution():
    seen = []

    def listener(problem, _tensors, run):
        seen.append(problem)
        return run()

    layer = nn.SpatialSeparableConv2d(4, 6, 3, padding=1)
    with listening(listener):
        layer(torch.randn(1, 4, 5, 6))
    assert [str(p) for p in seen] == ["spatial_separable:n1_c4_o6_i5x6_k3x3_pad1_b_mid=4"]


def test_functions_take_the_layers_weights():
    layer = filled(nn.SpatialSeparableConv3d(4, 6, (2, 3, 1), 2, 1, groups=2, mid_channels=8, dtype=torch.float64))
    x = whole(2, 4, 5, 6, 7)
    weights = (layer.depth_weight, layer.column_weight, layer.row_weight)
    assert_equal(OF.spatial_separable_conv3d(x, *weights, layer.bias, 2, 1, 1, 2), layer(x))
    column, row = whole(3, 2, 3, 1), whole(4, 3, 1, 5)
    x = whole(1, 2, 6, 7)
    want = OF.conv2d(OF.conv2d(x, column, padding=(1, 0)), row, padding=(0, 2))
    assert_equal(OF.spatial_separable_conv2d(x, column, row, padding=(1, 2)), want)
    with pytest.raises(ValueError, match=r"`column_weight` shape \(=\(3, 2, 3, 2\)\) must be \(3, 2, 3, 1\)"):
        OF.spatial_separable_conv2d(torch.ones(1, 2, 6, 7), torch.ones(3, 2, 3, 2), torch.ones(4, 3, 1, 5))
    with pytest.raises(ValueError, match="`row_weight` shape"):
        OF.spatial_separable_conv2d(torch.ones(1, 2, 6, 7), torch.ones(3, 2, 3, 1), torch.ones(4, 5, 1, 5))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: nn.SpatialSeparableConv2d(4, 4, 3, groups=2, mid_channels=3),
            "`mid_channels` (=3) must be a multiple of",
        ),
        (
            lambda: nn.SpatialSeparableConv2d(4, 8, 3, groups=2, depthwise=True),
            "`groups` (=2) must be `in_channels` (=4)",
        ),
        (lambda: nn.SpatialSeparableConv2d(4, 6, 3, depthwise=True), "must divide `out_channels` (=6)"),
        (
            lambda: nn.SpatialSeparableConv2d.from_kernel(torch.ones(3)),
            "`kernel` shape (=(3,)) must be real, of 2 axes",
        ),
        (lambda: nn.SpatialSeparableConv2d.from_kernel(torch.ones(3, 1, 3, 3), groups=2), "`groups` (=2) must divide"),
        (lambda: nn.SpatialSeparableConv2d.from_kernel(SOBEL, rank=0), "`rank` (=0)"),
        (lambda: nn.SpatialSeparableConv2d.from_kernel(SOBEL, tolerance=-1.0), "`tolerance` (=-1.0)"),
        (lambda: nn.SpatialSeparableConv2d.from_kernel(SOBEL / 0), "must be finite"),
    ],
)
def test_wrong_values_are_named(make, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        make()


def test_one_axis_has_nothing_to_separate():
    _, setting = named_settings()["spatial-separable"]
    with pytest.raises(ValueError, match="has one axis, so there is nothing to separate"):
        setting.build(Position(4, 4, (9,), (3,), (1,), (1,)))
    with pytest.raises(TypeError, match="`kernel`"):
        nn.SpatialSeparableConv2d.from_kernel("sobel")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"bias": [1.0]}, TypeError, r"`bias` \(=list\) must be a torch.Tensor or None"),
        ({"bias": torch.ones(1)}, ValueError, r"`bias` shape \(=\(1,\)\) must be \(3,\)"),
        ({"tolerance": "0.1"}, TypeError, r"`tolerance` \(='0.1'\) must be a number"),
    ],
)
def test_from_kernel_refuses_before_it_factors(arguments, error, said):
    with pytest.raises(error, match=said):
        nn.SpatialSeparableConv2d.from_kernel([[1.0, 2.0], [2.0, 4.0]], groups=3, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_lies_behind_a_row_of_the_input_does_not_reach_the_gradients(dtype):
    whole_input = torch.full((1, 3, 12, 40), float("nan"), dtype=dtype)
    x = whole_input[:, :2, :, :23]
    x.copy_(whole(*x.shape))
    column, row = (whole(2, 1, *taps).to(dtype).requires_grad_() for taps in ((5, 1), (1, 3)))
    result = OF.spatial_separable_conv2d(x, column, row, padding="same", groups=2)
    got = torch.autograd.grad(result, (column, row), torch.ones_like(result))
    alone = OF.spatial_separable_conv2d(x.clone(), column, row, padding="same", groups=2)
    for found, right in zip(got, torch.autograd.grad(alone, (column, row), torch.ones_like(alone)), strict=True):
        assert_equal(found, right)
