# SPDX-License-Identifier: Apache-2.0
"""Geometries that nobody chose: every family's cases with other kernels, steps, paddings, sizes and groups."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from contract.problems import CHOSEN, COMPILED, each, family_of, first_of_each_family, first_of_each_kernel
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
def geometries(draw, texts):
    """A legal problem, by way of its string, with the special numbers and the channels of one of these strings."""
    problem = ConvProblem.parse(draw(st.sampled_from(texts)))
    dim = problem.dim
    stride = draw(per_axis(st.integers(1, 3), dim))
    rules = [r for r in RULES if r != "same" or problem.transposed or set(stride) == {1}]
    entry = st.one_of(st.tuples(AMOUNT, AMOUNT), st.sampled_from(rules))
    changes = {
        "kernel_size": draw(per_axis(st.integers(1, 4 if dim < 3 else 3), dim)),
        "stride": stride,
        "dilation": draw(per_axis(st.integers(1, 3), dim)),
        "padding": draw(per_axis(entry, dim)),
        "bias": draw(st.booleans()),
        "batch": draw(st.integers(0, 3)),
        "in_size": draw(per_axis(st.integers(1, 9 if dim < 3 else 6), dim)),
    }
    if problem.transposed:
        changes["output_padding"] = draw(per_axis(st.integers(0, 2), dim))
    else:
        changes["padding_mode"] = draw(st.sampled_from((problem.padding_mode, *PADDING_MODES)))
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
    @given(geometries(texts), layouts, st.sampled_from([torch.float32, torch.bfloat16]))
    def hold(found, layout, dtype):
        assume(kernel.refuse(found) is None)
        check_layout(found, plan_for, layout, dtype)

    hold()


@each(first_of_each_family(CHOSEN))
def test_geometries(case):
    check_geometries(case.problem, Plan)


@each(first_of_each_kernel(COMPILED))
def test_laid_geometries(case):
    check_laid_geometries(case.problem, case.plan_for)
