# SPDX-License-Identifier: Apache-2.0
"""The two convolutions of a depthwise separable one, their cost and their tensor shapes."""

from __future__ import annotations

from dataclasses import replace

from omniconv.core.cost import Cost
from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.cost import cost as conv_cost
from omniconv.ops.conv.cost import tensors as conv_tensors


def parts(problem: ConvProblem) -> tuple[ConvProblem, ConvProblem]:
    """The depthwise convolution, which has the taps, and the pointwise one, which meets the channels."""
    ones = (1,) * problem.dim
    between = problem.in_channels * problem.number("multiplier")
    depthwise = replace(
        problem,
        family="conv",
        out_channels=between,
        groups=problem.in_channels,
        bias=bool(problem["depthwise_bias"]),
        special=(),
    )
    pointwise = replace(
        depthwise,
        in_channels=between,
        out_channels=problem.out_channels,
        kernel_size=ones,
        stride=ones,
        padding=((0, 0),) * problem.dim,
        dilation=ones,
        groups=1,
        bias=problem.bias,
        padding_mode="zeros",
        in_size=None if problem.in_size is None else depthwise.out_size,
    )
    return depthwise, pointwise


def tensors(problem: ConvProblem) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the tensor arguments for a problem with a known input size."""
    depthwise, pointwise = (conv_tensors(part) for part in parts(problem))
    return {
        "input": depthwise["input"],
        "depthwise_weight": depthwise["weight"],
        "pointwise_weight": pointwise["weight"],
        "bias": pointwise["bias"],
        "depthwise_bias": depthwise["bias"],
    }


def cost(problem: ConvProblem) -> Cost:
    """K taps in each of C·m channels, then C·m channels at each of P positions: P·C·m·(K + O) in all."""
    depthwise, pointwise = parts(problem)
    return Cost(problem, conv_cost(depthwise, "depthwise").steps + conv_cost(pointwise, "pointwise").steps)
