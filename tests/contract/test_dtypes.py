# SPDX-License-Identifier: Apache-2.0
"""Every floating dtype is kept, computed to its rounding and summed in float32 at least; others are refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from contract.problems import (
    CASES,
    CHOSEN,
    OPERATORS,
    covering,
    each,
    expected,
    family_of,
    halves,
    legal,
    positives,
    present,
    reals,
    tracked,
    wide,
)
from contract.test_gradients import gradients
from tolerance import FACTORS, assert_close

DTYPES = pytest.mark.parametrize("dtype", FACTORS, ids=lambda d: str(d).removeprefix("torch."))
LOW = (torch.bfloat16, torch.float16)
TAPS = {1: 1025, 2: 33, 3: 11}


def check_dtype(problem, plan_for, dtype):
    tensors = reals(problem, dtype)
    output = plan_for(problem)(*tensors)
    assert output.dtype == dtype, f"{output.dtype} from tensors of {dtype}"
    assert_close(output, expected(problem, tensors))


def check_gradient_dtype(problem, plan_for, dtype):
    leaves = tracked(reals(problem, dtype))
    twins = tracked(wide(leaves))
    got = gradients(plan_for(problem)(*leaves), present(leaves))
    want = gradients(expected(problem, twins), present(twins))
    for leaf, one, other in zip(present(leaves), got, want, strict=True):
        assert one.dtype == leaf.dtype, f"a gradient of {one.dtype} to a tensor of {leaf.dtype}"
        assert_close(one, other)


def of_many_taps(problem):
    """The problem with a kernel of about a thousand taps, all of them on data at one output or more."""
    taps = (TAPS[problem.dim],) * problem.dim
    ones = (1,) * problem.dim
    plain = {"padding": ((0, 0),) * problem.dim, "padding_mode": "zeros", "stride": ones, "dilation": ones}
    if problem.transposed:
        plain["output_padding"] = (0,) * problem.dim
    return legal(replace(problem, kernel_size=taps, in_size=taps, **plain), taps, 1)


def check_accumulation(problem, plan_for):
    """A thousand positive products summed in bfloat16 stop growing after 256; in float32 they do not."""
    long = of_many_taps(problem)
    tensors = positives(long, torch.bfloat16)
    assert_close(plan_for(long)(*tensors), expected(long, tensors))


def check_autocast(problem, plan_for):
    """Under autocast float32 tensors, and tensors of two dtypes, give bfloat16; gradients come back as they were."""
    leaves = tracked(reals(problem, torch.float32))
    rounded = tuple(None if t is None else t.detach().bfloat16() for t in leaves)
    with torch.autocast("cpu", torch.bfloat16):
        output = plan_for(problem)(*leaves)
        mixed = plan_for(problem)(rounded[0], *leaves[1:])
    for result in (output, mixed):
        assert result.dtype == torch.bfloat16, f"autocast to bfloat16 gave {result.dtype}"
        assert_close(result, expected(problem, rounded))
    for leaf, grad in zip(present(leaves), gradients(output, present(leaves)), strict=True):
        assert grad.dtype == leaf.dtype, f"a gradient of {grad.dtype} to a leaf of {leaf.dtype}"
        assert bool(grad.isfinite().all()), "a gradient is not finite"


def check_refuses_dtypes(problem, plan_for):
    """Integers and mixtures are a TypeError that names the tensor and its dtype, before anything is computed."""
    tensors = halves(problem, torch.float32)
    for at, name in enumerate(family_of(problem).tensor_names):
        if tensors[at] is None:
            continue
        for dtype in (torch.int64, torch.bool, torch.float64):
            wrong = [t.to(dtype) if i == at and t is not None else t for i, t in enumerate(tensors)]
            if dtype == torch.float64 and len(present(tensors)) == 1:
                continue
            try:
                plan_for(problem)(*wrong)
            except TypeError as error:
                text = str(error)
            else:
                raise AssertionError(f"{name} of {dtype} was taken")
            assert str(dtype) in text, f"the error does not say {dtype}: {text}"
            assert f"`{name}`" in text or dtype == torch.float64, f"the error does not name `{name}`: {text}"


@DTYPES
@each(CASES)
def test_dtype(case, dtype):
    check_dtype(case.problem, case.plan_for, dtype)


@DTYPES
@each(covering(CASES))
def test_gradient_dtype(case, dtype):
    check_gradient_dtype(case.problem, case.plan_for, dtype)


@pytest.mark.pitfall(41)
@each([case for case in covering(CASES) if of_many_taps(case.problem)])
def test_accumulation(case):
    check_accumulation(case.problem, case.plan_for)


@each(CASES + tuple(case for case in OPERATORS if case.dtype == torch.float32))
def test_autocast(case):
    check_autocast(case.problem, case.plan_for)


@each(CHOSEN)
def test_refuses_dtypes(case):
    check_refuses_dtypes(case.problem, case.plan_for)
