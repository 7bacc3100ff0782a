# SPDX-License-Identifier: Apache-2.0
"""Gradients to every tensor are those of the formula, and have gradients themselves."""

from __future__ import annotations

import torch
from torch.autograd import gradcheck, gradgradcheck

from contract.problems import (
    CASES,
    CHOSEN,
    assert_same,
    covering,
    each,
    expected,
    first_of_each_family,
    halves,
    present,
    reals,
    tracked,
    without_padding,
)


def gradients(output, tensors, seed=7):
    """Gradients of ``output`` weighted by small integers, one for each tensor."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(-3, 4, output.shape, generator=generator).to(output.dtype)
    return torch.autograd.grad(output, tensors, weights, allow_unused=True)


def check_gradients(problem, plan_for):
    leaves, twins = tracked(halves(problem)), tracked(halves(problem))
    output = plan_for(problem)(*leaves)
    got = gradients(output, present(leaves))
    want = gradients(expected(problem, twins), present(twins))
    for leaf, one, other in zip(present(leaves), got, want, strict=True):
        assert one is not None, f"no gradient to the tensor of shape {tuple(leaf.shape)}"
        assert_same(problem, one, other, scale=output.numel())


def check_gradcheck(problem, plan_for, *, fast=True):
    """Gradients against differences: backward and, by dual numbers, forward."""
    function, inputs = _of_present(problem, plan_for)
    try:
        gradcheck(function, inputs, fast_mode=fast, check_forward_ad=True, check_batched_grad=True)
    except RuntimeError as error:
        raise AssertionError(str(error)) from error


def check_second_gradients(problem, plan_for, *, fast=True):
    """Gradients of gradients against differences."""
    function, inputs = _of_present(problem, plan_for)
    try:
        gradgradcheck(function, inputs, fast_mode=fast)
    except RuntimeError as error:
        raise AssertionError(str(error)) from error


def _of_present(problem, plan_for):
    """The convolution as a function of those of its tensors that are there, and values for them."""
    problem = small(problem)
    tensors = tracked(reals(problem))
    plan = plan_for(problem)

    def function(*given):
        left = iter(given)
        return plan(*[None if t is None else next(left) for t in tensors])

    return function, present(tensors)


def small(problem):
    """The same taps on the smallest input that gives two outputs an axis."""
    sizes = tuple(min(size, span + 1) for size, span in zip(problem.in_size, problem.span, strict=True))
    try:
        return problem.at(sizes, 1)
    except ValueError:
        return without_padding(problem)


@each(CASES)
def test_gradients(case):
    check_gradients(case.problem, case.plan_for)


@each(covering(CASES))
def test_gradcheck(case):
    check_gradcheck(case.problem, case.plan_for)


@each(covering(CASES))
def test_second_gradients(case):
    check_second_gradients(case.problem, case.plan_for)


@each(first_of_each_family(CHOSEN))
def test_every_entry_of_both_orders(case):
    check_gradcheck(case.problem, case.plan_for, fast=False)
    check_second_gradients(case.problem, case.plan_for, fast=False)
