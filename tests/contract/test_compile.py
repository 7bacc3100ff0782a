# SPDX-License-Identifier: Apache-2.0
"""``torch.compile`` takes a call whole, for every size at once, and the registered operators tell it the truth."""

from __future__ import annotations

import pytest
import torch

from contract.calls import Holding, functions_for, inputs_of, numbers_for
from contract.problems import (
    CASES,
    CHOSEN,
    COMPILED,
    ROUNDED,
    covering,
    each,
    family_of,
    first_of_each_family,
    first_of_each_kernel,
    grown,
    lively,
    present,
    reals,
)
from contract.test_gradients import gradients
from contract.test_layouts import LAYOUTS
from tolerance import assert_close

WITHOUT_GRADIENTS = ("test_schema", "test_faketensor")
EVERYTHING = (*WITHOUT_GRADIENTS, "test_autograd_registration", "test_aot_dispatch_dynamic")


@pytest.fixture(autouse=True)
def fresh_dynamo():
    """Nothing compiled before; sizes that happen to be equal are not taken for one size."""
    torch._dynamo.reset()
    with torch.fx.experimental._config.patch(use_duck_shape=False):
        yield
    torch._dynamo.reset()


def whole(function, backend="aot_eager", seen=None):
    """``function`` compiled as one graph, once: another graph for another size is an error.

    ``seen`` is given what the graph calls.
    """

    def looked_at(module, inputs):
        seen.update(node.target for node in module.graph.nodes)
        return torch._dynamo.lookup_backend(backend)(module, inputs)

    given = backend if seen is None else looked_at
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=given)
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


def check_compiles(problem, plan_for, backend="aot_eager", dtype=torch.float32, layout="fenced"):
    """One graph, forward and backward, serves two batches and sizes, and computes what eager code does.

    The graph of a compiled kernel calls its operator.
    """
    first = lively(problem)
    plan, called = plan_for(first), set()
    compiled = whole(Holding(plan), backend, called)
    lay = LAYOUTS[layout]
    for one in (first, grown(first)):
        leaves, twins = ([None if t is None else lay(t).requires_grad_() for t in reals(one, dtype)] for _ in range(2))
        output = compiled(*leaves)
        eager = plan(*twins)
        assert output.shape == eager.shape, f"shape {tuple(output.shape)}, not {tuple(eager.shape)}"
        assert output.stride() == eager.stride(), f"strides {output.stride()}, not {eager.stride()}"
        assert_close(output, eager)
        for a, b in zip(gradients(output, present(leaves)), gradients(eager, present(twins)), strict=True):
            assert_close(a, b)
            if plan._native is not None:
                assert a.stride() == b.stride(), f"a gradient of strides {a.stride()}, not {b.stride()}"
    assert plan._native is None or plan._native.operator in called, f"the graph calls {called}"


def check_operator(problem, plan_for, dtype=torch.float32, layout="fenced"):
    """The operators have the schema, the fakes, the gradients and the dynamic shapes that they claim."""
    tensors = [None if t is None else LAYOUTS[layout](t).requires_grad_() for t in reals(problem, dtype)]
    for operator, arguments, checks in operators(plan_for(problem), tensors):
        try:
            torch.library.opcheck(operator, arguments, test_utils=checks)
        except Exception as error:  # noqa: PERF203
            raise AssertionError(f"{operator} is not what it says: {error}") from error


def operators(plan, tensors):
    """Each operator of a plan's kernel, its arguments, and what can be checked of it."""
    problem, native = plan.problem, plan._native
    if native is None:
        yield plan._operator, (*tensors, *plan.family.numbers(problem, problem.in_size)), EVERYTHING
        return
    flat = plan._packed(tensors)
    places = [1 << at for at, tensor in enumerate(tensors) if tensor is not None]
    yield native.operator, (*tensors, flat), EVERYTHING
    yield native.raw, (*tensors, flat), WITHOUT_GRADIENTS
    grad = torch.randn_like(plan(*tensors)).requires_grad_()
    for wanted in (sum(places), *places[:2]):
        yield native.raw_backward, (grad, *tensors, flat, wanted), WITHOUT_GRADIENTS
    yield native.backward, (grad, *tensors, flat, sum(places)), EVERYTHING


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


@pytest.mark.parametrize("layout", ["fenced", "channels_last"])
@each(covering(COMPILED, most=2) + covering(ROUNDED, most=2))
def test_compiled_kernel_compiles(case, layout):
    check_compiles(case.problem, case.plan_for, dtype=case.dtype, layout=layout)


@each(first_of_each_family(CHOSEN))
def test_compiles_to_machine_code(case):
    check_compiles(case.problem, case.plan_for, "inductor")


@pytest.mark.parametrize("layout", ["fenced", "channels_last"])
@each(first_of_each_kernel(COMPILED))
def test_compiled_kernel_compiles_to_machine_code(case, layout):
    check_compiles(case.problem, case.plan_for, "inductor", case.dtype, layout)


@each(covering(CASES, most=4))
def test_operator(case):
    check_operator(case.problem, case.plan_for)


@pytest.mark.parametrize("layout", ["fenced", "channels_last", "turned"])
@each(covering(COMPILED, most=3) + covering(ROUNDED, most=1))
def test_operators_of_a_compiled_kernel(case, layout):
    check_operator(case.problem, case.plan_for, case.dtype, layout)


@each(covering(CHOSEN, most=3))
def test_functions_compile(case):
    for function in functions_for(case.problem):
        check_function_compiles(case.problem, function)


@each(covering(CHOSEN, most=2))
def test_layers_compile(case):
    check_layer_compiles(case.problem, case.family.layer_of)
