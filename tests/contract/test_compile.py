# SPDX-License-Identifier: Apache-2.0
"""``torch.compile`` takes a call whole, for every size at once, and the registered operators tell it the truth."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from contract.calls import Holding, call, functions_for, inputs_of
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


def check_compiles(problem, plan_for, backend="aot_eager"):
    """One graph, forward and backward, serves two batches and sizes, and computes what eager code does."""
    first = lively(problem)
    plan = plan_for(first)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(Holding(plan), fullgraph=True, dynamic=True, backend=counter)
    for one in (first, grown(first)):
        leaves, twins = tracked(reals(one, torch.float32)), tracked(reals(one, torch.float32))
        try:
            output = compiled(*leaves)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise AssertionError(f"does not compile whole: {error}") from error
        eager = plan(*twins)
        assert output.shape == eager.shape, f"shape {tuple(output.shape)}, not {tuple(eager.shape)}"
        assert output.stride() == eager.stride(), f"strides {output.stride()}, not {eager.stride()}"
        assert_close(output, eager)
        for a, b in zip(gradients(output, present(leaves)), gradients(eager, present(twins)), strict=True):
            assert_close(a, b)
    graphs = 1 if backend == "aot_eager" else 2  # Inductor fixes the sizes of torch's own convolutions in training too
    assert counter.frame_count <= graphs, f"{counter.frame_count} graphs for two sizes: a size is built in"


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
    """A function called with plain arguments is traced from the reading of its arguments on."""
    _check_same_compiled(lambda *tensors: call(function, problem, tensors), reals(problem, torch.float32))


def check_layer_compiles(problem, layer_of):
    """A layer compiles whole, with its parameters."""
    layer = layer_of(problem)
    _check_same_compiled(layer, inputs_of(layer, problem, reals(problem, torch.float32)))


def _check_same_compiled(function, tensors):
    try:
        output = torch.compile(function, fullgraph=True, backend="aot_eager")(*tensors)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise AssertionError(f"does not compile whole: {error}") from error
    assert_close(output, function(*tensors))


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


@each(covering(CHOSEN, most=3))
def test_layers_compile(case):
    check_layer_compiles(case.problem, case.family.layer_of)
