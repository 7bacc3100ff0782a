# SPDX-License-Identifier: Apache-2.0
"""Cost and tensor shapes of blur pooling: a depthwise convolution that holds no parameters."""

from __future__ import annotations

from omniconv.core.cost import Cost, letters_of, step_of
from omniconv.core.problem import ConvProblem


def tensors(problem: ConvProblem) -> dict[str, tuple[int, ...] | None]:
    """The input is the only tensor."""
    return {"input": (problem.batch or 0, problem.in_channels, *(problem.in_size or ()))}


def cost(problem: ConvProblem) -> Cost:
    """Each of P outputs of each channel meets K taps."""
    step = step_of(
        "blur", letters_of(problem), params="0", macs="N*P*C*K", inputs="N*C*I", outputs="N*C*P", walk=problem
    )
    return Cost(problem, (step,))
