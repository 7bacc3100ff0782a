# SPDX-License-Identifier: Apache-2.0
"""The same bits come out of every run; of kernels of our own also from one, two and four threads."""

from __future__ import annotations

import pytest
import torch

from contract.problems import CASES, covering, each, present, reals, tracked
from contract.test_gradients import gradients
from tolerance import assert_close

LENGTHS = {1: 400, 2: 28, 3: 10}


def large(problem):
    return problem.at(tuple(max(size, LENGTHS[problem.dim]) for size in problem.in_size), 4)


def bits(problem, plan_for, threads):
    """The output and the gradients that so many threads compute, of an input that is worth more than one thread."""
    problem = large(problem)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        leaves = tracked(reals(problem, torch.float32))
        output = plan_for(problem)(*leaves)
        return output.detach(), *gradients(output, present(leaves))
    finally:
        torch.set_num_threads(before)


def check_repeats(problem, plan_for):
    """Two runs with as many threads give the same bits."""
    for threads in (1, 2, 4):
        _assert_same_bits(
            bits(problem, plan_for, threads), bits(problem, plan_for, threads), f"{threads} threads again"
        )


def check_threads(problem, plan_for):
    """Any number of threads gives the same bits."""
    want = bits(problem, plan_for, 1)
    for threads in (2, 4):
        _assert_same_bits(bits(problem, plan_for, threads), want, f"{threads} threads instead of one")


def check_threads_agree(problem, plan_for):
    """Any number of threads gives the same result up to rounding."""
    want = bits(problem, plan_for, 1)
    for threads in (2, 4):
        for one, other in zip(bits(problem, plan_for, threads), want, strict=True):
            assert_close(one, other)


def _assert_same_bits(got, want, when):
    for at, (one, other) in enumerate(zip(got, want, strict=True)):
        what = "the output" if at == 0 else f"gradient {at}"
        assert torch.equal(one, other), f"{what} has {int((one != other).sum())} other values with {when}"


@pytest.mark.pitfall(42)
@each(covering(CASES))
def test_repeats(case):
    check_repeats(case.problem, case.plan_for)


@pytest.mark.pitfall(42)
@each(covering(CASES))
def test_threads(case):
    """oneDNN, behind ATen's convolutions, sums weights' gradients in as many parts as there are threads."""
    check = check_threads_agree if case.kernel.module == "aten" else check_threads
    check(case.problem, case.plan_for)
