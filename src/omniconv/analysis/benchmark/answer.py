# SPDX-License-Identifier: Apache-2.0
"""The right answer of a benchmark in float64, and whether another is that answer: no time without it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from omniconv.analysis.benchmark.operands import Operands
from omniconv.analysis.benchmark.peers import Unavailable
from omniconv.analysis.benchmark.peers.plain import Function, answered, composed, function_of, steps_of
from omniconv.analysis.benchmark.problems import Benchmark
from omniconv.analysis.comparison.verify import rounding
from omniconv.core.family import family_of
from omniconv.core.problem import ConvProblem

# The formula walks the taps, and writes its input and its output anew for each: with more elements than this, or more
# multiply-adds, torch's convolution in float64 answers for it. Takes about a second.
MOST_ELEMENTS = 50_000_000
MOST_MACS = 500_000_000


def right_answer(benchmark: Benchmark, operands: Operands) -> tuple[Tensor, ...]:
    """The output and, where the benchmark trains, the gradient of every argument, in float64."""
    problem, family = benchmark.problem, benchmark.family
    function = formula = _formula(benchmark)
    walked = (problem.batch or 1) * prod(problem.kernel_size)
    walked *= problem.in_channels * prod(problem.in_size or ()) + problem.out_channels * prod(problem.out_size)
    if walked * (3 if benchmark.training else 1) > MOST_ELEMENTS or family.cost(problem).macs > MOST_MACS:
        try:
            function = function_of(benchmark)
        except Unavailable:
            function = formula
    call = answered(function, operands.wide())
    return tuple(tensor.detach() for tensor in call.read(call.run()))


def _formula(benchmark: Benchmark) -> Function:
    """The family's formula; where something follows its convolutions, those of their families, one after the other."""
    if benchmark.followed:
        return composed(benchmark, [_reference(step.problem) for step in steps_of(benchmark.problem)])
    return _reference(benchmark.problem)


def _reference(problem: ConvProblem) -> Function:
    return partial(family_of(problem).part("reference").reference, problem)


def complaint(answer: Sequence[Tensor], right: Sequence[Tensor], dtype: torch.dtype) -> str:
    """What is wrong with an answer, or ""."""
    for at, (got, expected) in enumerate(zip(answer, right, strict=True)):
        what = f"the gradient of argument {at - 1}" if at else "the output"
        if got.shape != expected.shape:
            return f"{what} has shape {tuple(got.shape)}, and {tuple(expected.shape)} is right"
        error = float((got.detach().to("cpu", torch.float64) - expected).abs().max())
        allowed = rounding(dtype, got.device.type) * float(expected.abs().max())
        if not error <= allowed:  # written so that NaN is an error too
            return f"{what} differs from the formula by {error:.2g}; rounding explains {allowed:.2g}"
    return ""
