# SPDX-License-Identifier: Apache-2.0
"""Geometries that nobody chose: every family's cases with other kernels, steps, paddings, sizes and groups."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from contract.problems import CHOSEN, each, family_of, first_of_each_family
from contract.test_gradients import check_gradients
from contract.test_values import check_values
from omniconv.core.padding import RULES
from omniconv.core.problem import PADDING_MODES, ConvProblem
from omniconv.core.register import Plan

AMOUNT = st.integers(0, 3)


def per_axis(values, dim):
    return st.tuples(*[values] * dim)


@st.composite
def geometries(draw, family):
    """A legal problem of ``family``, by way of its string, with the special numbers and the channels of one case."""
    case = draw(st.sampled_from([c for c in CHOSEN if c.family is family]))
    problem, dim = case.problem, case.problem.dim
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
    @given(geometries(family_of(problem)))
    def hold(found):
        check_values(found, plan_for)
        check_gradients(found, plan_for)

    hold()


@each(first_of_each_family(CHOSEN))
def test_geometries(case):
    check_geometries(case.problem, Plan)
