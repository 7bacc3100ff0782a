# SPDX-License-Identifier: Apache-2.0
"""Gradients to every tensor are those of the formula, and have gradients themselves."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from contract.problems import (
    CASES,
    COMPILED,
    OPERATORS,
    ROUNDED,
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

DIFFERENCED = tuple(case for case in CASES if case.dtype == torch.float64)


def weights_of(tensor, seed=7):
    """Small integers, one for each element of ``tensor``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, tensor.shape, generator=generator).to(tensor.dtype)


def gradients(output, tensors, seed=7):
    """Gradients of ``output`` weighted by small integers, one for each tensor."""
    return torch.autograd.grad(output, tensors, weights_of(output, seed), allow_unused=True)


def check_gradients(problem, plan_for, dtype=torch.float64):
    leaves, twins = tracked(halves(problem, dtype)), tracked(halves(problem))
    output = plan_for(problem)(*leaves)
    got = gradients(output, present(leaves))
    want = gradients(expected(problem, twins), present(twins))
    for leaf, one, other in zip(present(leaves), got, want, strict=True):
        assert one is not None, f"no gradient to the tensor of shape {tuple(leaf.shape)}"
        assert_same(problem, one, other, scale=output.numel())


def check_gradients_apart(problem, plan_for, dtype=torch.float64):
    """Each tensor gets its gradient where the others want none, and nothing is recorded where nobody wants one."""
    plan, tensors, twins = plan_for(problem), halves(problem, dtype), tracked(halves(problem))
    want = expected(problem, twins)
    with torch.no_grad():
        outputs = [plan(*tracked(tensors)), plan(*tensors)]
    with torch.inference_mode():
        assert_same(problem, plan(*tensors).clone(), want)
    for output in (*outputs, plan(*tensors)):
        assert not output.requires_grad, "a gradient is recorded, and nobody asked for it"
    places = [at for at, tensor in enumerate(tensors) if tensor is not None]
    for at, other in zip(places, gradients(want, present(twins)), strict=True):
        leaf = tensors[at].clone().requires_grad_()
        output = plan(*tensors[:at], leaf, *tensors[at + 1 :])
        assert output.requires_grad, f"tensor {at} alone gets no gradient"
        assert_same(problem, *gradients(output, (leaf,)), other, scale=output.numel())


def check_change_is_noticed(problem, plan_for, dtype=torch.float64):
    """An input that is changed after the call makes the gradients an error, or leaves them as they were."""
    leaves, twins = tracked(halves(problem, dtype)), tracked(halves(problem))
    input = leaves[0].clone()
    output = plan_for(problem)(input, *leaves[1:])
    with torch.no_grad():
        input.add_(1)
    if not present(leaves[1:]):
        return
    try:
        got = gradients(output, present(leaves[1:]))
    except RuntimeError as error:
        if "modified by an inplace operation" in str(error):
            return
        raise
    for one, other in zip(got, gradients(expected(problem, twins), present(twins[1:])), strict=True):
        assert_same(problem, one, other, scale=output.numel())


def both_orders(function, leaves):
    """A function's gradients, and the gradients of those to every tensor and to the weights of the outputs."""
    output = function(*leaves)
    weights = weights_of(output).requires_grad_()
    first = torch.autograd.grad(output, present(leaves), weights, create_graph=True)
    total = sum((grad * weights_of(grad, seed=11)).sum() for grad in first)
    assert total.requires_grad, "the gradients have no gradient"
    wanted = (*present(leaves), weights)
    second = torch.autograd.grad(total, wanted, allow_unused=True)
    second = [torch.zeros_like(t) if grad is None else grad for t, grad in zip(wanted, second, strict=True)]
    return *[grad.detach() for grad in first], *second


def entangled(input, *rest):
    """The tensors with the first number of the input added to all others, as where an input makes a kernel."""
    return input, *[None if t is None else t + input.flatten()[:1].sum() for t in rest]


def check_second_gradients(problem, plan_for, dtype=torch.float64, mixed=None):
    """Gradients of gradients are those of the formula; ``mixed`` may make the tensors from each other first."""
    mix = mixed or (lambda *tensors: tensors)
    plan, leaves, twins = plan_for(problem), tracked(halves(problem, dtype)), tracked(halves(problem))
    try:
        got = both_orders(lambda *tensors: plan(*mix(*tensors)), leaves)
    except RuntimeError as error:
        raise AssertionError(f"the gradients have no gradient: {error}") from error
    want = both_orders(lambda *tensors: expected(problem, mix(*tensors)), twins)
    size = torch.sum if mixed else torch.max  # where all gradients meet in one number, they cancel there
    scale = max([float(size(grad.abs())) for grad in want if grad.numel()], default=1.0)
    for one, other in zip(got, want, strict=True):
        assert_same(problem, one, other, scale=max(scale, 1.0))


def check_forward_gradients(problem, plan_for, dtype=torch.float64):
    """Dual numbers carry a direction through, in every tensor at once."""
    tensors, directions = halves(problem, dtype), halves(problem, dtype, seed=1)
    plan = plan_for(problem)
    with forward_ad.dual_level():
        pairs = zip(tensors, directions, strict=True)
        duals = [None if t is None else forward_ad.make_dual(t, direction) for t, direction in pairs]
        try:
            got = forward_ad.unpack_dual(plan(*duals)).tangent
        except NotImplementedError as error:
            raise AssertionError(f"has no forward gradient: {error}") from error
        want = forward_ad.unpack_dual(expected(problem, duals)).tangent
    assert got is not None, "the direction is lost"
    assert_same(problem, got, want, scale=1.0)


def check_batched_gradients(problem, plan_for, dtype=torch.float64):
    """Three gradients of the output at once give three gradients of every tensor."""
    leaves, twins = tracked(halves(problem, dtype)), tracked(halves(problem))
    output, want = plan_for(problem)(*leaves), expected(problem, twins)
    seeds = (1, 2, 3)
    weights = torch.stack([weights_of(output, seed) for seed in seeds])
    try:
        got = torch.autograd.grad(output, present(leaves), weights, is_grads_batched=True)
    except RuntimeError as error:
        raise AssertionError(f"gradients do not come in batches: {error}") from error
    for at, seed in enumerate(seeds):
        single = torch.autograd.grad(want, present(twins), weights_of(want, seed), retain_graph=True)
        for one, other in zip(got, single, strict=True):
            assert_same(problem, one[at], other, scale=output.numel())


def check_gradcheck(problem, plan_for, *, fast=True):
    """Gradients against differences: backward and, by dual numbers, forward."""
    function, inputs = _of_present(problem, plan_for)
    try:
        gradcheck(function, inputs, fast_mode=fast, check_forward_ad=True, check_batched_grad=True)
    except RuntimeError as error:
        raise AssertionError(str(error)) from error


def check_gradgradcheck(problem, plan_for, *, fast=True):
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


@each(CASES + ROUNDED + OPERATORS)
def test_gradients(case):
    check_gradients(case.problem, case.plan_for, case.dtype)


@each(covering(CASES) + covering(ROUNDED) + covering(OPERATORS))
def test_gradients_apart(case):
    check_gradients_apart(case.problem, case.plan_for, case.dtype)


@each(covering(CASES) + covering(OPERATORS))
def test_change_is_noticed(case):
    check_change_is_noticed(case.problem, case.plan_for, case.dtype)


@each(covering(DIFFERENCED) + COMPILED + covering([case for case in OPERATORS if case.dtype == torch.float32]))
def test_second_gradients(case):
    check_second_gradients(case.problem, case.plan_for, case.dtype)
    check_second_gradients(case.problem, case.plan_for, case.dtype, entangled)


@each(covering(COMPILED))
def test_forward_gradients(case):
    check_forward_gradients(case.problem, case.plan_for, case.dtype)


@each(covering(COMPILED))
def test_batched_gradients(case):
    check_batched_gradients(case.problem, case.plan_for, case.dtype)


@each(covering(DIFFERENCED))
def test_gradcheck(case):
    check_gradcheck(case.problem, case.plan_for)


@each(covering(DIFFERENCED))
def test_gradgradcheck(case):
    check_gradgradcheck(case.problem, case.plan_for)


@each(first_of_each_family(DIFFERENCED))
def test_every_entry_of_both_orders(case):
    check_gradcheck(case.problem, case.plan_for, fast=False)
    check_gradgradcheck(case.problem, case.plan_for, fast=False)
