# SPDX-License-Identifier: Apache-2.0
"""Every kernel computes its family's formula: on small numbers, to the last bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from contract.problems import (
    CASES,
    CHOSEN,
    assert_same,
    covering,
    each,
    expected,
    halves,
    legal,
    present,
    reals,
    tracked,
)

WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33)


def check_values(problem, plan_for):
    tensors = halves(problem)
    want = expected(problem, tensors)
    plan = plan_for(problem)
    assert_same(problem, plan(*tensors), want)
    assert_same(problem, plan(*[t if t is None else t.float() for t in tensors]), want)


def check_leaves_inputs(problem, plan_for):
    tensors = halves(problem)
    kept = [t.clone() for t in present(tensors)]
    plan_for(problem)(*tensors)
    for tensor, before in zip(present(tensors), kept, strict=True):
        assert torch.equal(tensor, before), "an input was changed"


def check_writes_everything(problem, plan_for):
    """Run under the ``poisoned_memory`` fixture: what a kernel or its gradient forgets to write is NaN."""
    tensors = tracked(reals(problem, torch.float32))
    output = plan_for(problem)(*tensors)
    assert not output.isnan().any(), "an output was never written"
    for grad in torch.autograd.grad(output.sum(), present(tensors)):
        assert not grad.isnan().any(), "a gradient was never written"


def check_empty_batch(problem, plan_for):
    empty = problem.at(problem.in_size, 0)
    tensors = tracked(halves(empty))
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


def check_widths(problem, plan_for):
    """Sizes around the width of a vector register, where kernels change from whole vectors to a rest."""
    tried = [of_width(problem, n) for n in WIDTHS] + [of_length(problem, n) for n in WIDTHS]
    legal_ones = [p for p in tried if p is not None]
    assert len(legal_ones) >= len(WIDTHS) // 2, f"only {len(legal_ones)} sizes are legal"
    for one in legal_ones:
        check_values(one, plan_for)


@each(CASES)
def test_values(case):
    check_values(case.problem, case.plan_for)


@each(CASES)
def test_leaves_inputs(case):
    check_leaves_inputs(case.problem, case.plan_for)


@pytest.mark.usefixtures("poisoned_memory")
@each(CASES)
def test_writes_everything(case):
    check_writes_everything(case.problem, case.plan_for)


@each(CASES)
def test_empty_batch(case):
    check_empty_batch(case.problem, case.plan_for)


@each(covering(CHOSEN))
def test_widths(case):
    check_widths(case.problem, case.plan_for)
