# SPDX-License-Identifier: Apache-2.0
"""``torch.export``, ``make_fx`` and ``torch.func`` see a convolution as they see torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from contract.calls import Holding
from contract.problems import (
    CASES,
    CHOSEN,
    COMPILED,
    OPERATORS,
    assert_same,
    covering,
    each,
    expected,
    grown,
    halves,
    lively,
    present,
    reals,
)
from tolerance import assert_close


@pytest.fixture(autouse=True)
def distinct_sizes():
    """Sizes that happen to be equal are not taken for one size."""
    with torch.fx.experimental._config.patch(use_duck_shape=False):
        yield


def moving(first, other):
    """Where the shapes of two problems' tensors differ, by tensor and axis, as ``torch.export`` wants it said."""
    dims = []
    for one, two in zip(halves(first), halves(other), strict=True):
        if one is not None:
            sizes = zip(one.shape, two.shape, strict=True)
            dims.append({axis: torch.export.Dim.DYNAMIC for axis, (a, b) in enumerate(sizes) if a != b})
        else:
            dims.append(None)
    return dims


def check_export(problem, plan_for, *, by_name=False):
    """The exported program takes another batch and another size than it was exported with.

    It needs no compiled library, unless the library's operator was called by its name.
    """
    first, other = lively(problem), grown(lively(problem))
    given, plan = reals(first, torch.float32), plan_for(first)
    try:
        program = torch.export.export(
            Holding(plan), given, dynamic_shapes={"tensors": tuple(moving(first, other))}, strict=False
        )
    except Exception as error:
        raise AssertionError(f"does not export with a free batch and size: {error}") from error
    if plan._native is not None:
        called = {node.target for node in program.graph.nodes}
        assert (plan._native.operator in called) == by_name, f"the program calls {called}"
    for one in (first, other):
        tensors = reals(one, torch.float32)
        assert_close(program.module()(*tensors), plan_for(one)(*tensors))


def check_symbolic_trace(problem, plan_for, dtype=torch.float64):
    """``make_fx`` with symbolic sizes gives a graph that holds for another size."""
    first, other = lively(problem), grown(lively(problem))
    plan = plan_for(first)
    try:
        graph = make_fx(plan, tracing_mode="symbolic")(*halves(first, dtype))
        for one in (first, other):
            assert_same(one, graph(*halves(one, dtype)), expected(one, halves(one)))
    except (RuntimeError, TypeError, ValueError) as error:
        raise AssertionError(f"the graph does not hold for another size: {error}") from error


def check_vmap(problem, plan_for, dtype=torch.float64):
    """Mapped over inputs alone, and over every tensor, each sample gets what it gets by itself."""
    plan = plan_for(problem)
    samples = [halves(problem, dtype, seed=seed) for seed in range(3)]
    stacked = [None if parts[0] is None else torch.stack(parts) for parts in zip(*samples, strict=True)]
    shared = samples[0][1:]
    try:
        over_inputs = vmap(plan, in_dims=(0, *[None] * len(shared)))(stacked[0], *shared)
        over_all = vmap(plan, in_dims=tuple(None if t is None else 0 for t in stacked))(*stacked)
    except (RuntimeError, ValueError) as error:
        raise AssertionError(f"does not map: {error}") from error
    for sample, one, all_of_it in zip(samples, over_inputs, over_all, strict=True):
        assert_same(problem, one, expected(problem, (sample[0], *shared)))
        assert_same(problem, all_of_it, expected(problem, sample))


def check_functional_gradients(problem, plan_for, dtype=torch.float64):
    """``torch.func.grad`` and ``jvp`` give the formula's gradients in every tensor."""
    tensors, same = halves(problem, dtype), halves(problem)
    places = tuple(at for at, t in enumerate(tensors) if t is not None)

    def of_present(function):
        def run(*given):
            left = iter(given)
            return function(*[None if t is None else next(left) for t in tensors])

        return run

    plan, formula = of_present(plan_for(problem)), of_present(lambda *t: expected(problem, t))

    def of_square(function, tensors):
        return grad(lambda *t: (function(*t) ** 2).sum(), argnums=tuple(range(len(places))))(*present(tensors))

    def along(function, tensors):
        return jvp(function, present(tensors), tuple(torch.ones_like(t) for t in present(tensors)))[1]

    try:
        got, moved = of_square(plan, tensors), along(plan, tensors)
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(f"torch.func cannot differentiate it: {error}") from error
    want = of_square(formula, same)
    scale = float((formula(*present(same)) ** 2).sum())  # whose terms the gradients are made of, and may cancel
    for one, other in zip(got, want, strict=True):
        assert_same(problem, one, other, scale)
    assert_same(problem, moved, along(formula, same), scale)


@pytest.mark.pitfall(16)
@each(covering(CASES, most=4) + covering(COMPILED, most=2) + covering(OPERATORS, most=2))
def test_export(case):
    check_export(case.problem, case.plan_for, by_name=case.by_name)


@each(covering(CASES, most=4) + covering(COMPILED, most=2) + covering(OPERATORS, most=2))
def test_symbolic_trace(case):
    check_symbolic_trace(case.problem, case.plan_for, case.dtype)


@each(CASES + OPERATORS)
def test_vmap(case):
    check_vmap(case.problem, case.plan_for, case.dtype)


@each(covering(CHOSEN))
def test_functional_gradients(case):
    check_functional_gradients(case.problem, case.plan_for, case.dtype)
