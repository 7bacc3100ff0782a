# SPDX-License-Identifier: Apache-2.0
"""Every kernel computes its family's formula: on small numbers, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from contract.problems import (
    CASES,
    CHOSEN,
    OPERATORS,
    ROUNDED,
    assert_same,
    covering,
    each,
    exact,
    expected,
    halves,
    legal,
    present,
    tracked,
)
from contract.test_gradients import gradients
from contract.test_layouts import check_layout

WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33)


def check_values(problem, plan_for, dtype=torch.float64):
    tensors = halves(problem, dtype)
    want = expected(problem, tensors)
    plan = plan_for(problem)
    assert_same(problem, plan(*tensors), want)
    if dtype == torch.float64:
        assert_same(problem, plan(*[t if t is None else t.float() for t in tensors]), want)


def check_rounding(problem, plan_for, dtype=torch.bfloat16):
    """Sums of numbers of eight bits are rounded once, to the nearest and between two to the even."""
    tensors, twins = tracked(halves(problem, dtype, most=255)), tracked(halves(problem, most=255))
    output, want = plan_for(problem)(*tensors), expected(problem, twins)
    assert_same(problem, output, want)
    for one, other in zip(gradients(output, present(tensors)), gradients(want, present(twins)), strict=True):
        assert_same(problem, one, other)


def check_leaves_inputs(problem, plan_for, dtype=torch.float64):
    tensors = halves(problem, dtype)
    kept = [t.clone() for t in present(tensors)]
    plan_for(problem)(*tensors)
    for tensor, before in zip(present(tensors), kept, strict=True):
        assert torch.equal(tensor, before), "an input was changed"


def check_writes_everything(problem, plan_for, dtype=torch.float32):
    """Run under the ``poisoned_memory`` fixture: what a kernel or its gradient forgets to write is NaN, or too large.

    A call whose numbers are all NaN goes before, for the memory that a kernel keeps from one call to the next.
    """
    plan = plan_for(problem)
    poison = tracked([t if t is None else torch.full_like(t, torch.nan) for t in halves(problem, dtype)])
    gradients(plan(*poison), present(poison))
    tensors, twins = tracked(halves(problem, dtype)), tracked(halves(problem))
    output, want = plan(*tensors), expected(problem, twins)
    assert_same(problem, output, want)
    for one, other in zip(gradients(output, present(tensors)), gradients(want, present(twins)), strict=True):
        assert_same(problem, one, other, scale=output.numel())


def check_empty_batch(problem, plan_for, dtype=torch.float64):
    empty = problem.at(problem.in_size, 0)
    tensors = tracked(halves(empty, dtype))
    output = plan_for(empty)(*tensors)
    assert output.shape == (0, empty.out_channels, *empty.out_size), f"shape {tuple(output.shape)}"
    for tensor, grad in zip(present(tensors), torch.autograd.grad(output.sum(), present(tensors)), strict=True):
        assert grad.shape == tensor.shape, f"gradient of shape {tuple(grad.shape)}, not {tuple(tensor.shape)}"
        assert not grad.any(), "the gradient of an empty batch is not zero"


def of_width(problem, channels):
    """The problem with that many input channels, or None where its rules leave no such thing."""
    ratio = problem.out_channels // problem.in_channels
    depthwise = problem.groups == problem.in_channels > 1
    groups = channels if depthwise else problem.groups
    outputs = channels * ratio if depthwise or problem.in_channels == problem.out_channels else channels + 1
    special = tuple((k, 1 if isinstance(v, int) and v > 1 and channels % v else v) for k, v in problem.special)
    if channels % groups or outputs % groups:
        return None
    return legal(replace(problem, in_channels=channels, out_channels=outputs, groups=groups, special=special))


def of_length(problem, length):
    """The problem on an input whose last axis has ``length`` positions, or None where that is too short."""
    return legal(problem, (*problem.in_size[:-1], length))


def check_widths(problem, plan_for, dtype=torch.float64, layouts=()):
    """Sizes around the width of a vector register, where kernels change from whole vectors to a rest: both ways."""
    tried = [of_width(problem, n) for n in WIDTHS] + [of_length(problem, n) for n in WIDTHS]
    legal_ones = [p for p in tried if p is not None]
    assert len(legal_ones) >= len(WIDTHS) // 2, f"only {len(legal_ones)} sizes are legal"
    for one in legal_ones:
        check_values(one, plan_for, dtype)
        for layout in layouts:
            check_layout(one, plan_for, layout, dtype)


@each(CASES + ROUNDED + OPERATORS)
def test_values(case):
    check_values(case.problem, case.plan_for, case.dtype)


@each([case for case in ROUNDED if exact(case.problem)])
def test_rounding(case):
    check_rounding(case.problem, case.plan_for, case.dtype)


@each(CASES + ROUNDED)
def test_leaves_inputs(case):
    check_leaves_inputs(case.problem, case.plan_for, case.dtype)


@pytest.mark.usefixtures("poisoned_memory")
@each(CASES + ROUNDED)
def test_writes_everything(case):
    check_writes_everything(case.problem, case.plan_for, case.dtype)


@each(CASES + ROUNDED + OPERATORS)
def test_empty_batch(case):
    check_empty_batch(case.problem, case.plan_for, case.dtype)


@each(covering(CHOSEN) + covering(ROUNDED))
def test_widths(case):
    layouts = ("fenced", "channels_last") if case.kernel.compiled else ()
    check_widths(case.problem, case.plan_for, case.dtype, layouts)
