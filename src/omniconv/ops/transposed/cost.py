# SPDX-License-Identifier: Apache-2.0
"""Cost and tensor shapes of a transposed convolution."""

from __future__ import annotations

from math import prod

from omniconv.core.cost import Cost, letters_of, step_of
from omniconv.core.problem import ConvProblem


def tensors(problem: ConvProblem) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the tensor arguments for a problem with a known input size."""
    c, o, g = problem.in_channels, problem.out_channels, problem.groups
    return {
        "input": (problem.batch or 0, c, *(problem.in_size or ())),
        "weight": (c, o // g, *problem.kernel_size),
        "bias": (o,) if problem.bias else None,
    }


def cost(problem: ConvProblem) -> Cost:
    """Each of I inputs of each of C channels meets the O/G outputs of its group at K taps, whatever the stride."""
    letters = letters_of(problem)
    step = step_of(
        "transposed convolution",
        letters,
        params="C*O//G*K",
        macs="N*I*C*O//G*K",
        inputs="N*C*I",
        outputs="N*O*P",
        bias="O" if problem.bias else "0",
        bias_adds="N*P*O" if problem.bias else "0",
        walk=problem,
    )
    kept = prod(_kept(problem, axis) for axis in range(problem.dim))
    walked = letters["I"] * letters["K"]
    if kept == walked or not step.macs.value:
        return Cost(problem, (step,))
    pairs = letters["N"] * problem.in_channels * problem.out_channels // problem.groups
    return Cost(problem, (step,), (f"{kept * pairs:,} of the {step.macs.value:,} MACs land on outputs that are kept",))


def _kept(problem: ConvProblem, axis: int) -> int:
    """Pairs of an input position and a tap whose output is not cropped away, tap by tap: 0 ≤ s·i + d·k − pad < P."""
    size, out = (problem.in_size or ())[axis], problem.out_size[axis]
    stride, (before, _) = problem.stride[axis], problem.pads()[axis]
    shifts = (before - problem.dilation[axis] * k for k in range(problem.kernel_size[axis]))
    return sum(max(min(size - 1, (out - 1 + s) // stride) - max(0, -(-s // stride)) + 1, 0) for s in shifts)
