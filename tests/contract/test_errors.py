# SPDX-License-Identifier: Apache-2.0
"""A wrong tensor is refused before anything is computed: the argument in backticks, what it is, and what it must be."""

from __future__ import annotations

import pytest
import torch

from contract.calls import call, functions_for
from contract.problems import CHOSEN, covering, each, family_of, halves, legal


def wrong_tensors(problem):
    """Yield (what is wrong, tensors, the argument to name, the value to show, error types) for each tensor in turn."""
    family = family_of(problem)
    tensors = halves(problem, torch.float32)
    first = tensors[0]
    others = [n for n, t in zip(family.tensor_names[1:], tensors[1:], strict=True) if t is not None]
    for at, name in enumerate(family.tensor_names):
        tensor = tensors[at]

        def with_(other, at=at):
            return (*tensors[:at], other, *tensors[at + 1 :])

        if tensor is None:
            shape = (problem.out_channels,)
            yield "out of place", with_(torch.zeros(shape)), name, str(shape), ValueError
            continue
        yield "missing", with_(None), name, "None", TypeError
        yield "a number", with_(3), name, "int", TypeError
        yield "integers", with_(tensor.long()), name, "torch.int64", TypeError
        if others:  # a lone tensor may lie anywhere
            yield "elsewhere", with_(tensor.to("meta")), name if at else others[0], "meta", ValueError
        yield "an axis more", with_(tensor[None, None]), name, _shape(tensor[None, None]), ValueError
        if at == 0:
            other = first.new_zeros(first.shape[0], first.shape[1] + 1, *first.shape[2:])
            yield "a channel more", with_(other), name, str(other.shape[1]), ValueError
            continue
        for axis in range(tensor.dim()):
            other = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis) if tensor.shape[axis] else tensor
            if other.shape != tensor.shape:
                yield f"longer on axis {axis}", with_(other), name, _shape(other), ValueError
        yield "of another type", with_(tensor.double()), name, "torch.float64", TypeError


def _shape(tensor):
    return str(tuple(tensor.shape))


def check_errors(problem, plan_for):
    plan = plan_for(problem)
    for what, tensors, name, value, kind in wrong_tensors(problem):
        try:
            plan(*tensors)
        except (TypeError, ValueError) as error:
            text, got = str(error), type(error)
        except Exception as error:
            raise AssertionError(f"{name} {what} got as far as the kernel: {error}") from error
        else:
            raise AssertionError(f"{name} {what} was taken")
        assert issubclass(got, kind), f"{name} {what}: {got.__name__}, not {kind.__name__}: {text}"
        assert f"`{name}`" in text, f"{name} {what}: the error does not name `{name}`: {text}"
        assert value in text, f"{name} {what}: the error does not show {value}: {text}"
        assert "must be" in text or "must have" in text or "; use" in text, f"{name} {what}: no rule in: {text}"


def check_too_small(problem, plan_for):
    """An input too small for the kernel is refused with the least size that would do."""
    for axis in range(problem.dim):
        sizes = [legal(problem, (*problem.in_size[:axis], n, *problem.in_size[axis + 1 :])) for n in range(1, 40)]
        least = next((n for n, one in enumerate(sizes, start=1) if one is not None), None)
        assert least is not None, "no size below 40 is legal"
        if least == 1:
            continue
        input, *rest = halves(problem)
        try:
            plan_for(problem)(input.new_zeros(*input.shape[: axis + 2], least - 1, *input.shape[axis + 3 :]), *rest)
        except ValueError as error:
            text = str(error)
        else:
            raise AssertionError(f"an input of {least - 1} positions was taken, and {least} are needed")
        assert str(least - 1) in text, f"the error does not show {least - 1}: {text}"
        assert str(least) in text or problem.padding_mode != "zeros", f"no word of {least}: {text}"


@each(CHOSEN)
def test_errors(case):
    one = case.problem.at(case.problem.in_size, max(case.problem.batch, 1))
    check_errors(one, case.plan_for)


@each(CHOSEN)
def test_too_small(case):
    check_too_small(case.problem, case.plan_for)


@each(covering(CHOSEN))
def test_functions_refuse_what_is_no_tensor(case):
    """The functions read their channels from a weight, so they must look at it before a plan can."""
    names = case.family.tensor_names
    tensors = halves(case.problem, torch.float32)
    for function in functions_for(case.problem):
        for at, name in enumerate(names):
            if tensors[at] is None:
                continue
            wrong = (*tensors[:at], [[1.0, 2.0]], *tensors[at + 1 :])
            with pytest.raises(TypeError, match=rf"`{name}` \(=list\) must be a torch.Tensor"):
                call(function, case.problem, wrong)
