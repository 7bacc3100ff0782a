# SPDX-License-Identifier: Apache-2.0
"""``torch.compile`` takes a call whole, for every size at once, and the registered operators tell it the truth."""

from __future__ import annotations

import pytest
import torch

from contract.calls import Holding, functions_for, inputs_of, numbers_for
from contract.problems import (
    CASES,
    CHOSEN,
    covering,
    each,
    family_of,
    first_of_each_family,
    grown,
    lively,
    present,
    reals,
    tracked,
)
from contract.test_gradients import gradients
from tolerance import assert_close


@pytest.fixture(autouse=True)
def fresh_dynamo():
    """Nothing compiled before; sizes that happen to be equal are not taken for one size."""
    torch._dynamo.reset()
    with torch.fx.experimental._config.patch(use_duck_shape=False):
        yield
    torch._dynamo.reset()


def whole(function, backend="aot_eager"):
    """``function`` compiled as one graph, once: another graph for another size is an error."""
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=backend)
    once = backend == "aot_eager"  # in training Inductor fixes the sizes of torch's own convolutions too

    def run(*tensors):
        with torch._dynamo.config.patch(error_on_recompile=once):
            try:
                return compiled(*tensors)
            except torch._dynamo.exc.RecompileError as error:
                raise AssertionError(f"a size is built in: {error}") from error
            except torch._dynamo.exc.TorchDynamoException as error:
                raise AssertionError(f"does not compile whole: {error}") from error

    return run


def check_compiles(problem, plan_for, backend="aot_eager"):
    """One graph, forward and backward, serves two batches and sizes, and computes what eager code does."""
    first = lively(problem)
    plan = plan_for(first)
    compiled = whole(Holding(plan), backend)
    for one in (first, grown(first)):
        leaves, twins = tracked(reals(one, torch.float32)), tracked(reals(one, torch.float32))
        output = compiled(*leaves)
        eager = plan(*twins)
        assert output.shape == eager.shape, f"shape {tuple(output.shape)}, not {tuple(eager.shape)}"
        assert output.stride() == eager.stride(), f"strides {output.stride()}, not {eager.stride()}"
        assert_close(output, eager)
        for a, b in zip(gradients(output, present(leaves)), gradients(eager, present(twins)), strict=True):
            assert_close(a, b)


def check_operator(problem, plan_for):
    """The operator has the schema, the fakes, the gradients and the dynamic shapes that it claims."""
    family = family_of(problem)
    tensors = tracked(reals(problem, torch.float32))
    operator = plan_for(problem)._operator
    try:
        torch.library.opcheck(operator, (*tensors, *family.numbers(problem, problem.in_size)))
    except Exception as error:
        raise AssertionError(f"{operator} is not what it says: {error}") from error


def check_function_compiles(problem, function):
    """A function called with plain arguments is traced whole, from the reading of its arguments on, for every size."""
    first = lively(problem)
    numbers = numbers_for(function, first)
    names = family_of(problem).tensor_names

    def run(*tensors):
        return function(**{name: t for name, t in zip(names, tensors, strict=True) if t is not None}, **numbers)

    _check_same_compiled(run, [reals(one, torch.float32) for one in (first, grown(first))])


def check_layer_compiles(problem, layer_of):
    """A layer compiles whole, with its parameters, for every size."""
    first = lively(problem)
    layer = layer_of(first)
    _check_same_compiled(layer, [inputs_of(layer, one, reals(one, torch.float32)) for one in (first, grown(first))])


def _check_same_compiled(function, inputs):
    compiled = whole(function)
    for pair in zip(*inputs, strict=True):
        for axis in range(0 if pair[0] is None else pair[0].dim()):
            if pair[0].shape[axis] == pair[1].shape[axis]:  # channels and taps stay as they are
                torch._dynamo.mark_static(pair[0], axis)
                torch._dynamo.mark_static(pair[1], axis)
    for tensors in inputs:
        assert_close(compiled(*tensors), function(*tensors))


@each(covering(CASES, most=4))
def test_compiles(case):
    check_compiles(case.problem, case.plan_for)


@each(first_of_each_family(CHOSEN))
def test_compiles_to_machine_code(case):
    check_compiles(case.problem, case.plan_for, "inductor")


@each(covering(CASES, most=4))
def test_operator(case):
    check_operator(case.problem, case.plan_for)


@each(covering(CHOSEN, most=3))
def test_functions_compile(case):
    for function in functions_for(case.problem):
        check_function_compiles(case.problem, function)


@each(covering(CHOSEN, most=2))
def test_layers_compile(case):
    check_layer_compiles(case.problem, case.family.layer_of)
