# SPDX-License-Identifier: Apache-2.0
"""Geometries that nobody chose: every family's cases with other kernels, steps, paddings, sizes and groups."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from contract.problems import (
    CHOSEN,
    COMPILED,
    ROUNDED,
    each,
    family_of,
    first_of_each_family,
    first_of_each_kernel,
    legal,
)
from contract.test_gradients import check_gradients
from contract.test_layouts import check_layout
from contract.test_values import check_values
from omniconv.core.choose import choose
from omniconv.core.padding import RULES
from omniconv.core.problem import PADDING_MODES, ConvProblem
from omniconv.core.register import Plan

AMOUNT = st.integers(0, 3)


def per_axis(values, dim):
    return st.tuples(*[values] * dim)


@st.composite
def geometries(draw, texts, modes=PADDING_MODES, longest=None, taps=None):
    """A legal problem, by way of its string, with the special numbers and the channels of one of these strings.

    ``longest`` and ``taps`` bound the last axis, where they are given.
    """
    problem = ConvProblem.parse(draw(st.sampled_from(texts)))
    dim = problem.dim
    stride = draw(per_axis(st.integers(1, 3), dim))
    rules = [r for r in RULES if r != "same" or problem.transposed or set(stride) == {1}]
    entry = st.one_of(st.tuples(AMOUNT, AMOUNT), st.sampled_from(rules))
    most = 4 if dim < 3 else 3, 9 if dim < 3 else 6
    changes = {
        "kernel_size": draw(st.tuples(*[st.integers(1, most[0])] * (dim - 1), st.integers(1, taps or most[0]))),
        "stride": stride,
        "dilation": draw(per_axis(st.integers(1, 3), dim)),
        "padding": draw(per_axis(entry, dim)),
        "bias": draw(st.booleans()),
        "batch": draw(st.integers(0, 3)),
        "in_size": draw(st.tuples(*[st.integers(1, most[1])] * (dim - 1), st.integers(1, longest or most[1]))),
    }
    if problem.transposed:
        changes["output_padding"] = draw(per_axis(st.integers(0, 2), dim))
    else:
        changes["padding_mode"] = draw(st.sampled_from((problem.padding_mode, *modes)))
    if draw(st.booleans()):
        changes |= _wider(problem, draw(st.integers(2, 3)), draw(st.booleans()))
    try:
        found = ConvProblem.parse(str(replace(problem, **changes)))
        Plan(found)
    except ValueError:
        assume(False)
    return found


def _wider(problem, times, more_groups):
    """So many times the channels, in as many groups or in more."""
    groups = problem.groups * times if more_groups or problem.groups == problem.in_channels > 1 else problem.groups
    return {
        "in_channels": problem.in_channels * times,
        "out_channels": problem.out_channels * times,
        "groups": groups,
    }


def check_geometries(problem, plan_for, phases=tuple(Phase)):
    """Values and gradients are the formula's on every problem of this one's family that hypothesis comes upon."""

    @settings(max_examples=150, phases=phases, suppress_health_check=list(HealthCheck))
    @given(geometries([str(case.problem) for case in CHOSEN if case.family is family_of(problem)]))
    def hold(found):
        check_values(found, plan_for)
        check_gradients(found, plan_for)

    hold()


def check_laid_geometries(problem, plan_for, phases=tuple(Phase)):
    """The same of every problem that this one's compiled kernel takes, in the layouts and types that it computes in."""
    kernel = choose(problem).kernel
    texts = [str(case.problem) for case in COMPILED if case.family is family_of(problem) and case.kernel is kernel]
    layouts = st.sampled_from(["fenced", "channels_last", "windowed", "strided"])

    @settings(max_examples=500, phases=phases, suppress_health_check=list(HealthCheck))
    @given(geometries(texts, (), longest=70, taps=9), layouts, st.sampled_from([torch.float32, torch.bfloat16]))
    def hold(found, layout, dtype):
        assume(kernel.refuse(found) is None)
        check_layout(found, plan_for, layout, dtype)

    hold()


def usual(problem, taps, stride):
    """The problem in the shape that most networks have, for which kernels have loops of their own; or None."""
    axes = {"kernel_size": taps, "stride": stride, "dilation": 1, "padding": (taps // 2,) * 2}
    sizes = {1: (70,), 2: (9, 38), 3: (3, 4, 34)}
    try:
        found = replace(problem, **{name: (value,) * problem.dim for name, value in axes.items()})
        return legal(found, sizes[problem.dim], 1)
    except ValueError:
        return None


def check_usual_shapes(problem, plan_for, dtype=torch.float64):
    """Values and gradients of square kernels of 3, 5 and 7 taps, at every position and at every second."""
    for taps, stride in product((3, 5, 7), (1, 2)):
        one = usual(problem, taps, stride)
        if one is not None and (problem.dim < 3 or taps == 3):
            for layout in ("fenced", "channels_last"):
                check_layout(one, plan_for, layout, dtype)


@each(first_of_each_family(CHOSEN))
def test_geometries(case):
    check_geometries(case.problem, Plan)


@each(first_of_each_kernel(COMPILED))
def test_laid_geometries(case):
    check_laid_geometries(case.problem, case.plan_for)


@each(COMPILED + ROUNDED)
def test_usual_shapes(case):
    check_usual_shapes(case.problem, case.plan_for, case.dtype)
