# SPDX-License-Identifier: Apache-2.0
"""Cost and tensor shapes of an ordinary convolution."""

from __future__ import annotations

from omniconv.core.cost import Cost, letters_of, step_of
from omniconv.core.problem import ConvProblem


def tensors(problem: ConvProblem) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the tensor arguments for a problem with a known input size."""
    c, o, g = problem.in_channels, problem.out_channels, problem.groups
    return {
        "input": (problem.batch or 0, c, *(problem.in_size or ())),
        "weight": (o, c // g, *problem.kernel_size),
        "bias": (o,) if problem.bias else None,
    }


def cost(problem: ConvProblem, name: str = "convolution") -> Cost:
    """Each of P outputs of each of O channels meets the C/G channels of its group at K taps."""
    letters = letters_of(problem)
    step = step_of(
        name,
        letters,
        params="O*C//G*K",
        macs="N*P*O*C//G*K",
        inputs="N*C*I",
        outputs="N*O*P",
        bias="O" if problem.bias else "0",
        bias_adds="N*P*O" if problem.bias else "0",
        walk=problem,
    )
    return Cost(problem, (step,))
