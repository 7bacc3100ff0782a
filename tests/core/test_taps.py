# SPDX-License-Identifier: Apache-2.0
"""Taps walked one by one agree with convolutions of ones, and receptive fields with the support of a response."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import ceil, prod

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from omniconv.core.problem import PADDING_MODES, ConvProblem
from omniconv.core.taps import MOST_STEPS, Meeting, axis_field, axis_meetings, count_products, field_of_path
from tolerance import assert_equal


def ran(problem, x):
    """The problem on ``x`` with a kernel of ones."""
    name = f"conv_transpose{problem.dim}d" if problem.transposed else f"conv{problem.dim}d"
    c, o, g = problem.in_channels, problem.out_channels, problem.groups
    shape = (c, o // g) if problem.transposed else (o, c // g)
    named = {"output_padding": problem.output_padding} if problem.transposed else {"padding_mode": problem.padding_mode}
    return getattr(OF, name)(
        x,
        torch.ones(*shape, *problem.kernel_size, dtype=torch.float64),
        stride=problem.stride,
        padding=problem.padding,
        dilation=problem.dilation,
        groups=g,
        **named,
    )


@st.composite
def problems(draw, dims=(1, 2, 3), rules=("valid", "tf_same", "same_lower")):
    """A problem of either direction, with an input size."""
    dim, groups, transposed = draw(st.sampled_from(dims)), draw(st.integers(1, 3)), draw(st.booleans())
    pair = st.tuples(st.integers(0, 3), st.integers(0, 3))

    def axes(strategy):
        return tuple(draw(strategy) for _ in range(dim))

    try:
        return ConvProblem.of(
            "transposed" if transposed else "conv",
            dim,
            groups * draw(st.integers(1, 2)),
            groups * draw(st.integers(1, 2)),
            axes(st.integers(1, 4)),
            axes(st.integers(1, 3)),
            axes(pair | st.sampled_from(rules)),
            axes(st.integers(1, 3)),
            groups,
            transposed=transposed,
            output_padding=0,
            in_size=axes(st.integers(1, 7)),
            batch=draw(st.integers(0, 2)),
        )
    except ValueError:
        assume(condition=False)


@settings(max_examples=150)
@given(problems())
def test_products_on_data_are_the_sum_of_a_convolution_of_ones(problem):
    count = count_products(problem)
    ones = torch.ones(problem.batch, problem.in_channels, *problem.in_size, dtype=torch.float64)
    assert count.on_data == int(ran(problem, ones).sum())
    positions = prod(problem.in_size if problem.transposed else problem.out_size)
    per_pair = positions * prod(problem.kernel_size)
    assert (count.walked, count.pairs) == (per_pair, problem.in_channels * problem.out_channels // problem.groups)
    assert count.all_taps == problem.batch * count.pairs * per_pair >= count.on_data


@pytest.mark.parametrize("mode", PADDING_MODES[1:])
def test_products_on_repeated_data_count(mode):
    problem = ConvProblem.of("conv", 2, 2, 4, 3, 2, 1, 1, 2, padding_mode=mode, in_size=(5, 4), batch=3)
    count = count_products(problem)
    assert count.on_data == count.all_taps == 3 * 4 * 3 * 2 * 9
    assert count_products(replace(problem, padding_mode="zeros")).on_data < count.on_data


def test_what_is_walked_is_positions_and_taps_of_one_axis():
    gather = ConvProblem.of("conv", 1, 1, 1, 2, 2, ((1, 0),), 3, in_size=5)
    assert list(axis_meetings(gather, 0)) == [
        Meeting(0, 0, -1, kept=False),
        Meeting(0, 1, 2, kept=True),
        Meeting(1, 0, 1, kept=True),
        Meeting(1, 1, 4, kept=True),
    ]
    scatter = ConvProblem.of("transposed", 1, 1, 1, 3, 2, ((1, 2),), transposed=True, in_size=2)
    assert [(m.output, m.tap, m.input, m.kept) for m in axis_meetings(scatter, 0)] == [
        (-1, 0, 0, False),
        (0, 1, 0, True),
        (1, 2, 0, True),
        (1, 0, 1, True),
        (2, 1, 1, False),
        (3, 2, 1, False),
    ]


def test_without_a_batch_one_is_counted():
    problem = ConvProblem.parse("conv:c2_o3_i4_k3")
    assert count_products(problem).all_taps == 2 * 2 * 3 * 3
    assert count_products(problem.at((4,), 0)) == replace(count_products(problem), all_taps=0, on_data=0)


def test_what_cannot_be_walked_says_why():
    with pytest.raises(
        ValueError, match=re.escape("`in_size` (=None) must be known to walk the taps; use problem.at(")
    ):
        list(axis_meetings(ConvProblem.parse("conv:c1_o1_k3"), 0))
    big = ConvProblem.of("conv", 2, 1, 1, 3, 1, 1, in_size=(4000, 4000))
    with pytest.raises(ValueError, match=f"makes 144,000,000 steps to walk; use at most {MOST_STEPS:,}"):
        count_products(big)


def support(path, n):
    """Which of ``n`` inputs reach which outputs: True at [output, input], by the response to each input alone."""
    x = torch.eye(n, dtype=torch.float64).unsqueeze(1)
    for problem in path:
        x = ran(problem, x)
    return (x[:, 0] > 0).T


def hull(row):
    at = row.nonzero().flatten()
    return (int(at[0]), int(at[-1])) if len(at) else None


def steps(draw, *, transposed):
    """One to three layers of one channel in sequence."""
    pair = st.tuples(st.integers(0, 3), st.integers(0, 3))
    path = []
    for _ in range(draw(st.integers(1, 3))):
        turned = draw(st.booleans()) if transposed else False
        k, s, d = (draw(st.integers(1, most)) for most in (4, 3, 3))
        family = "transposed" if turned else "conv"
        path.append(ConvProblem.of(family, 1, 1, 1, k, s, (draw(pair),), d, transposed=turned))
    return tuple(path)


@st.composite
def paths(draw, *, transposed):
    return steps(draw, transposed=transposed)


@pytest.mark.pitfall(46)
@settings(max_examples=80)
@given(paths(transposed=False))
def test_the_field_of_gathering_layers_is_the_support_of_each_output(path):
    (field,) = field_of_path(path)
    rows = support(path, 4 * field.size + 2 * int(field.stride) + 40)
    inside = [(p, hull(row)) for p, row in enumerate(rows) if 2 * field.size <= field.start + p * field.stride]
    inside = [(p, found) for p, found in inside if field.start + p * field.stride + 2 * field.size < rows.shape[1]]
    assert inside
    for p, found in inside:
        first = field.start + p * field.stride
        assert found == (first, first + field.size - 1)


def strided_then(k):
    up = ConvProblem.of("transposed", 1, 1, 1, 4, 2, 1, transposed=True)
    return (up, ConvProblem.of("conv", 1, 1, 1, k, 1, 0))


@pytest.mark.pitfall(46)
@settings(max_examples=80)
@given(paths(transposed=True))
@example(strided_then(2))
@example(strided_then(3))
def test_the_field_behind_a_transposed_layer_is_its_largest_phase(path):
    (field,) = field_of_path(path)
    period = prod(problem.stride[0] for problem in path if problem.transposed)
    shift = int(period * field.stride)
    assert shift == period * field.stride
    turns = max(ceil(Fraction(3 * field.size + 12 - field.start, shift)), 0)
    rows = support(path, field.start + shift * (turns + 1) + 4 * field.size + 60)
    found = [hull(row) for row in rows[turns * period : (turns + 1) * period]]
    assert len(found) == period
    reached = [(first - turns * shift, last - turns * shift) for first, last in filter(None, found)]
    if not reached:
        assert field.size == 0
        return
    assert field.size == max(last - first + 1 for first, last in reached)
    assert field.start == min(first for first, _ in reached)


@settings(max_examples=40)
@given(problems(dims=(2, 3), rules=("valid",)))
def test_axes_do_not_mix(problem):
    fields = field_of_path((problem,))
    assert fields == tuple(axis_field(problem, axis) for axis in range(problem.dim))
    for axis, field in enumerate(fields):
        line = ConvProblem.of(
            problem.family,
            1,
            1,
            1,
            problem.kernel_size[axis],
            problem.stride[axis],
            (problem.padding[axis],),
            problem.dilation[axis],
            transposed=problem.transposed,
        )
        assert axis_field(line, 0) == field


@pytest.mark.parametrize(
    ("texts", "size", "stride", "start"),
    [
        (["conv:c1_o1_k3_d2_pad2"], 5, 1, -2),
        (["conv:c1_o1_k3_s2_pad1", "conv:c1_o1_k3_s2_pad1"], 7, 4, -3),
        (["conv:c1_o1_k3", "conv:c1_o1_k3_d2", "conv:c1_o1_k3_d4"], 15, 1, 0),
        (["transposed:c1_o1_k4_s2_pad1_t"], 2, Fraction(1, 2), -1),
        (["transposed:c1_o1_k3_s2_t"], 2, Fraction(1, 2), -1),
        (["transposed:c1_o1_k1_s2_t", "conv:c1_o1_k1_s2_pad1"], 0, 1, 0),
    ],
)
def test_known_fields(texts, size, stride, start):
    (field,) = field_of_path(tuple(map(ConvProblem.parse, texts)))
    assert (field.size, field.stride, field.start) == (size, stride, start)


def test_the_walk_is_the_convolution():
    problem = ConvProblem.parse("conv:n1_c1_o1_i6x5_k3x2_s2x1_d1x2_pad1x0:1")
    x, weight = torch.randint(-3, 4, (6, 5)).double(), torch.randint(-3, 4, (3, 2)).double()
    y = torch.zeros(problem.out_size, dtype=torch.float64)
    for rows, columns in product(axis_meetings(problem, 0), axis_meetings(problem, 1)):
        if rows.kept and columns.kept:
            y[rows.output, columns.output] += weight[rows.tap, columns.tap] * x[rows.input, columns.input]
    got = OF.conv2d(x[None, None], weight[None, None], None, (2, 1), ((1, 1), (0, 1)), (1, 2))
    assert_equal(got[0, 0], y)
