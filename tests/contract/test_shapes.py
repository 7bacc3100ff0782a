# SPDX-License-Identifier: Apache-2.0
"""The output has the shape that the problem says, with a batch, without one, and where there is no data at all."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from contract.problems import CASES, CHOSEN, OPERATORS, each, expected, grown, halves
from contract.test_layouts import LAYOUTS
from omniconv.core.family import family_of
from omniconv.core.problem import ConvProblem


def check_shape(problem, plan_for):
    want = (problem.batch, problem.out_channels, *problem.out_size)
    tensors = halves(problem)
    got = tuple(plan_for(problem)(*tensors).shape)
    assert got == want, f"output shape {got}, and the problem says {want}"
    formula = tuple(expected(problem, tensors).shape)
    assert formula == want, f"the reference gives {formula}, and the problem says {want}"


def check_unbatched(problem, plan_for):
    """An input without a batch gives what a batch of one gives, without its first axis."""
    family, one = family_of(problem), problem.at(problem.in_size, 1)
    tensors = halves(one)
    plan = plan_for(one)
    named = zip(family.tensor_names, tensors, strict=True)
    bare = [t.squeeze(0) if t is not None and name in family.batched else t for name, t in named]
    got, want = plan(*bare), plan(*tensors).squeeze(0)
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, not {tuple(want.shape)}"
    assert torch.equal(got, want), "an input without a batch gives other values"


def check_without_data(problem, plan_for, dtype=torch.float32, layout="fenced"):
    """Meta and fake tensors give the output's shape, type, device and strides without computing it."""
    tensors = [t if t is None else LAYOUTS[layout](t) for t in halves(problem, dtype)]
    real = plan_for(problem)(*tensors)
    meta = plan_for(problem)(*[t if t is None else t.to("meta") for t in tensors])
    with FakeTensorMode() as mode:
        fake = plan_for(problem)(*[t if t is None else mode.from_tensor(t) for t in tensors])
    assert meta.device.type == "meta", f"device {meta.device}, not meta"
    assert fake.device.type == "cpu", f"device {fake.device}, not cpu"
    for kind, output in (("meta", meta), ("fake", fake)):
        assert output.shape == real.shape, f"{kind} shape {tuple(output.shape)}, not {tuple(real.shape)}"
        assert output.dtype == real.dtype, f"{kind} dtype {output.dtype}, not {real.dtype}"
        assert output.stride() == real.stride(), f"{kind} strides {output.stride()}, not {real.stride()}"


def check_string(problem, text_of=str):
    """The problem's string names the same problem."""
    again = ConvProblem.parse(text_of(problem))
    assert again == problem, f"{problem} parses to {again}"
    assert hash(again) == hash(problem), "equal problems with unequal hashes"


def check_empty_axis(problem, plan_for):
    """An input without positions is refused by name, before anything is computed."""
    one = problem.at(tuple(max(size, 2) for size in problem.in_size), 1)
    for axis in range(problem.dim):
        input, *rest = halves(one)
        try:
            plan_for(problem)(input.narrow(axis + 2, 0, 0), *rest)
        except ValueError as error:
            text = str(error)
        else:
            raise AssertionError(f"an input with no positions on axis {axis} was taken")
        wanted = f"`input` size (=0) on spatial axis {axis} must be at least 1; use 1 or more."
        assert text == wanted, f"{text!r} instead of {wanted!r}"


def check_fixed_numbers(problem, plan_for):
    """What a plan computes once holds for every input that it will meet."""
    held = plan_for(problem)._numbers
    for one in (problem, grown(problem)):
        numbers = family_of(problem).numbers(one, one.in_size)
        assert held in (None, numbers), f"the plan holds {held}, and {one} needs {numbers}"


@each(CASES)
def test_shape(case):
    check_shape(case.problem, case.plan_for)
    check_shape(grown(case.problem), case.plan_for)


@each(CASES)
def test_unbatched(case):
    check_unbatched(case.problem, case.plan_for)


@each(CASES)
def test_without_data(case):
    check_without_data(case.problem, case.plan_for)


@pytest.mark.parametrize("layout", ["fenced", "channels_last", "windowed", "strided", "turned"])
@each(OPERATORS)
def test_strides_without_data(case, layout):
    check_without_data(case.problem, case.plan_for, case.dtype, layout)


@each(CHOSEN)
def test_string(case):
    check_string(case.problem)


@pytest.mark.pitfall(43)
@each(CASES)
def test_empty_axis(case):
    check_empty_axis(case.problem, case.plan_for)


@each(CHOSEN)
def test_fixed_numbers(case):
    check_fixed_numbers(case.problem, case.plan_for)
