# SPDX-License-Identifier: Apache-2.0
"""The same bits come out of every run; of kernels of our own also from one, two and four threads."""

from __future__ import annotations

import pytest
import torch

from contract.problems import CASES, COMPILED, ROUNDED, covering, each, present, reals
from contract.test_gradients import gradients
from contract.test_layouts import LAYOUTS
from tolerance import assert_close

LENGTHS = {1: 400, 2: 28, 3: 10}
THREADS = (2, 3, 4)


def large(problem):
    return problem.at(tuple(max(size, LENGTHS[problem.dim]) for size in problem.in_size), 4)


def bits(problem, plan_for, threads, dtype, layout):
    """The output and the gradients that so many threads compute, of an input that is worth more than one thread."""
    problem = large(problem)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        leaves = [None if t is None else LAYOUTS[layout](t).requires_grad_() for t in reals(problem, dtype)]
        output = plan_for(problem)(*leaves)
        return output.detach(), *gradients(output, present(leaves))
    finally:
        torch.set_num_threads(before)


def check_repeats(problem, plan_for, dtype=torch.float32, layout="fenced"):
    """Two runs with as many threads give the same bits."""
    for threads in (1, *THREADS):
        first, second = (bits(problem, plan_for, threads, dtype, layout) for _ in range(2))
        _assert_same_bits(first, second, f"{threads} threads again")


def check_threads(problem, plan_for, dtype=torch.float32, layout="fenced"):
    """Any number of threads gives the same bits."""
    want = bits(problem, plan_for, 1, dtype, layout)
    for threads in THREADS:
        got = bits(problem, plan_for, threads, dtype, layout)
        _assert_same_bits(got, want, f"{threads} threads instead of one")


def check_threads_agree(problem, plan_for):
    """Any number of threads gives the same result up to rounding."""
    want = bits(problem, plan_for, 1, torch.float32, "fenced")
    for threads in THREADS:
        for one, other in zip(bits(problem, plan_for, threads, torch.float32, "fenced"), want, strict=True):
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
@each(covering([case for case in CASES if not case.kernel.compiled]))
def test_threads_agree(case):
    """oneDNN, behind ATen's convolutions, sums weights' gradients in as many parts as there are threads."""
    check_threads_agree(case.problem, case.plan_for)


@pytest.mark.pitfall(42)
@pytest.mark.parametrize("layout", ["fenced", "channels_last"])
@each(COMPILED + covering(ROUNDED))
def test_threads(case, layout):
    check_threads(case.problem, case.plan_for, case.dtype, layout)
