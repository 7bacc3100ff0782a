# SPDX-License-Identifier: Apache-2.0
"""Costs against products that are counted, and receptive fields against inputs that are felt."""

from __future__ import annotations

from math import prod

import pytest
import torch

from contract.problems import CHOSEN, each, halves, positives, without_padding
from omniconv.core.family import family_of
from omniconv.core.taps import count_products, field_of_path


def responses(problem, compute, input):
    """What ``compute`` makes of each input of a batch where every weight is positive and every bias 0."""
    batch = input.shape[0]
    _, *rest = positives(problem.at(problem.in_size, 1))
    names = family_of(problem).tensor_names[1:]
    batched = family_of(problem).batched
    rest = [
        t.expand(batch, *t.shape[1:]) if t is not None and n in batched else t for n, t in zip(names, rest, strict=True)
    ]
    return compute(problem.at(problem.in_size, batch), input, *rest)


def formula(problem, *tensors):
    return family_of(problem).part("reference").reference(problem, *tensors)


def impulses(problem):
    """Every input that is 1 at one position of one channel and 0 elsewhere, as one batch."""
    count = problem.in_channels * prod(problem.in_size)
    return torch.eye(count, dtype=torch.float64).view(count, problem.in_channels, *problem.in_size)


def check_macs(problem, cost_of):
    """Each step's MACs are the products of the convolution that it names, counted twice: as responses and in a loop.

    An input meets an output in one product for each tap that joins them; with positive weights each such output of an
    impulse is above 0, so on a problem whose taps never leave the input the outputs above 0 are the products.
    """
    plain = without_padding(problem)
    for step in cost_of(plain).steps:
        if step.walk is None:
            assert step.macs.value == 0, f"step {step.name!r} has {step.macs.value} MACs and names no loop for them"
            continue
        products = int((responses(step.walk, formula, impulses(step.walk)) > 0).sum())
        assert step.macs.value == products, f"step {step.name!r}: {step.macs.value} MACs, {products} products"
    for step in cost_of(problem).steps:
        if step.walk is not None:
            looped = count_products(step.walk).all_taps
            assert step.macs.value == looped, f"step {step.name!r}: {step.macs.value} MACs, a loop counts {looped}"


def check_elements(problem, plan_for, cost_of):
    """The last step writes the output, the first reads the input, and biases are added once an output."""
    cost = cost_of(problem)
    tensors = halves(problem)
    output = plan_for(problem)(*tensors)
    written, read = cost.steps[-1].outputs.value, cost.steps[0].inputs.value
    assert written == output.numel(), f"{written} elements written, and the output has {output.numel()}"
    assert read >= tensors[0].numel(), f"{read} elements read, and the input has {tensors[0].numel()}"
    names = family_of(problem).tensor_names
    biases = sum(t.numel() for n, t in zip(names, tensors, strict=True) if t is not None and "bias" in n)
    assert sum(step.bias for step in cost.steps) == biases, f"{biases} biases are given, and the cost has others"
    for step in cost.steps:
        assert step.bias_adds == (step.outputs.value if step.bias else 0), f"step {step.name!r}: {step.bias_adds} adds"


def check_params(problem, cost_of, layer_of):
    """A layer that computes the problem holds the parameters that the cost says."""
    held = sum(p.numel() for p in layer_of(problem).parameters())
    assert cost_of(problem).params == held, f"{cost_of(problem).params} parameters, and the layer holds {held}"


def check_batch(problem, cost_of):
    """Twice the batch is twice the work, with the same parameters."""
    once, twice = (cost_of(problem.at(problem.in_size, n)) for n in (1, 2))
    assert twice.params == once.params, f"{twice.params} parameters for two samples, {once.params} for one"
    for part in ("macs", "sampling", "exponentials", "bias_adds"):
        one, two = getattr(once, part), getattr(twice, part)
        shared = part == "exponentials" and two == one  # a kernel that all samples share is normalised once
        assert two == 2 * one or shared, f"{two} {part} for two samples, {one} for one"


def felt(problem, plan_for):
    """Which inputs each output feels: True at [input, channel in, *in, channel out, *out]."""
    output = responses(problem, lambda p, *tensors: plan_for(p)(*tensors), impulses(problem))
    return (output > 0).view(problem.in_channels, *problem.in_size, *output.shape[1:])


def check_path(problem, plan_for):
    """The convolutions that the record names as its path join the inputs and outputs that the kernel joins."""
    plain = without_padding(problem)
    passed = impulses(plain)
    for part in family_of(plain).path(plain):
        passed = responses(part, formula, passed)
    same = felt(plain, plan_for).flatten() == (passed > 0).flatten()
    assert bool(same.all()), f"{int((~same).sum())} pairs of input and output are joined by only one of kernel and path"


def check_field(problem, plan_for):
    """The receptive field of the path is where the kernel feels its input."""
    plain = without_padding(problem)
    joined = felt(plain, plan_for)
    for axis, field in enumerate(field_of_path(family_of(plain).path(plain))):
        keep = (1 + axis, 2 + plain.dim + axis)
        along = joined.amax([a for a in range(joined.dim()) if a not in keep]).T
        reached = [(p, row.nonzero().flatten()) for p, row in enumerate(along) if row.any()]
        sizes = [int(at[-1] - at[0]) + 1 for _, at in reached]
        assert max(sizes) == field.size, f"axis {axis}: the field has {field.size} positions, {max(sizes)} are felt"
        if not plain.transposed:
            for p, at in reached:
                want = field.start + field.stride * p
                assert int(at[0]) == want, (
                    f"axis {axis}: output {p} feels from {int(at[0])} on, and the field says {want}"
                )


@each(CHOSEN)
def test_macs(case):
    check_macs(case.problem, case.family.cost)


@each(CHOSEN)
def test_elements(case):
    check_elements(case.problem, case.plan_for, case.family.cost)


@each(CHOSEN)
def test_params(case):
    check_params(case.problem, case.family.cost, case.family.layer_of)


@each(CHOSEN)
def test_path(case):
    check_path(case.problem, case.plan_for)


@pytest.mark.pitfall(46)
@each(CHOSEN)
def test_field(case):
    check_field(case.problem, case.plan_for)


@each(CHOSEN)
def test_batch(case):
    check_batch(case.problem, case.family.cost)
