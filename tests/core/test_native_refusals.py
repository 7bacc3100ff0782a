# SPDX-License-Identifier: Apache-2.0
"""A raw operator called by hand with tensors and numbers that disagree raises, whatever they are, and never crashes."""

from __future__ import annotations

import random

import pytest
import torch

from contract.problems import COMPILED, covering, each, halves
from omniconv.core.library import absent
from omniconv.core.register import Plan
from tolerance import assert_close

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())
CASES = covering([case for case in COMPILED if case.chosen])
OTHER_TYPES = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)
ODD = (-(2**63), -(2**40), -1, 0, 2**40, 2**62, 2**63 - 1)


def other_tensors(tensor):
    """What is wrong, and a tensor that is."""
    yield "None", None
    yield "an axis less", tensor[0]
    yield "an axis more", tensor[None]
    yield "two axes more", tensor[None, None]
    yield "no axis", tensor.flatten()[:1].sum()
    for axis in range(tensor.dim()):
        yield f"nothing on axis {axis}", tensor.narrow(axis, 0, 0)
        yield f"one more on axis {axis}", torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
        if tensor.shape[axis] > 1:
            yield f"one less on axis {axis}", tensor.narrow(axis, 1, tensor.shape[axis] - 1)
    for dtype in OTHER_TYPES:
        yield str(dtype), tensor.to(dtype)
    yield "sparse", tensor.to_sparse()


def wrong_calls(tensors, numbers):
    """What is wrong with a call, its tensors and its numbers."""
    for at, tensor in enumerate(tensors):
        for what, other in other_tensors(tensor) if tensor is not None else ():
            yield f"tensor {at}: {what}", (*tensors[:at], other, *tensors[at + 1 :]), numbers
    for count in range(len(numbers)):
        yield f"{count} numbers", tensors, numbers[:count]
    yield "a number more", tensors, (*numbers, 1)
    for at, number in enumerate(numbers):
        for other in (*ODD, number + 1, number - 1):
            yield f"number {at} is {other}", tensors, (*numbers[:at], other, *numbers[at + 1 :])
    drawn = random.Random(0)  # noqa: S311
    for _ in range(100):
        some = tuple(drawn.randint(-1, 4) if drawn.random() < 0.3 else number for number in numbers)
        yield f"numbers are {some}", tensors, some


def check_call(native, what, tensors, numbers):
    """A call raises, or ATen takes its arguments too and gives the same; one legal problem ATen refuses."""
    try:
        output = native.raw(*tensors, numbers)
    except (RuntimeError, TypeError):
        return True
    try:
        want = native.universal(*tensors, *native.flat.unpack(numbers))
    except (RuntimeError, ValueError, IndexError, StopIteration) as error:
        if "output padding must be smaller" in str(error):
            return False
        raise AssertionError(f"{what}: gives an output of shape {tuple(output.shape)}, and ATen {error}") from error
    assert_close(output, want)
    return False


def refuses(call, *arguments):
    """Whether a call raises what an operator raises."""
    try:
        call(*arguments)
    except (RuntimeError, TypeError):
        return True
    return False


@each(CASES)
def test_forward(case):
    plan, tensors = Plan(case.problem), halves(case.problem, torch.float32)
    calls = list(wrong_calls(tensors, plan._packed(tensors)))
    refused = sum(check_call(plan._native, *call) for call in calls)
    assert refused > len(calls) / 3


@each(CASES)
def test_backward(case):
    plan, tensors = Plan(case.problem), halves(case.problem, torch.float32)
    native, numbers = plan._native, plan._packed(tensors)
    grad = torch.ones_like(plan(*tensors))
    places = [at for at, tensor in enumerate(tensors) if tensor is not None]
    every = sum(1 << at for at in places)
    for what, other in other_tensors(grad):
        assert refuses(native.raw_backward, other, *tensors, numbers, every), f"a gradient with {what} was taken"
    for what, some, others in wrong_calls(tensors, numbers):
        if refuses(lambda *call: native.raw(*call).view(grad.shape), *some, others):
            assert refuses(native.raw_backward, grad, *some, others, every), f"{what} was taken"
    for at in set(range(len(tensors))) - set(places):
        assert refuses(native.raw_backward, grad, *tensors, numbers, 1 << at), "a gradient of None was given"
    for wanted in range(every + 1):
        found = native.raw_backward(grad, *tensors, numbers, wanted) if wanted & every == wanted else ()
        for at, gradient in enumerate(found):
            shape = tensors[at].shape if wanted >> at & 1 else (0,)
            assert gradient.shape == shape, f"wanted {wanted}: gradient {at} of shape {tuple(gradient.shape)}"
