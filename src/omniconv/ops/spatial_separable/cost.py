# SPDX-License-Identifier: Apache-2.0
"""The passes of a spatially separable convolution, their cost and their tensor shapes."""

from __future__ import annotations

from dataclasses import replace

from omniconv.core.cost import Cost
from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.cost import cost as conv_cost
from omniconv.ops.conv.cost import tensors as conv_tensors

WEIGHTS = ("depth_weight", "column_weight", "row_weight")


def passes(problem: ConvProblem) -> tuple[ConvProblem, ...]:
    """One ordinary convolution per axis, first axis first: from C to mid channels, and at last to O with the bias."""
    dim, mid, size = problem.dim, problem.number("mid"), problem.in_size
    result = []
    for axis in range(dim):
        last = axis == dim - 1

        def along(values: tuple[int, ...], axis: int = axis) -> tuple[int, ...]:
            return tuple(value if other == axis else 1 for other, value in enumerate(values))

        part = replace(
            problem,
            family="conv",
            in_channels=mid if axis else problem.in_channels,
            out_channels=problem.out_channels if last else mid,
            kernel_size=along(problem.kernel_size),
            stride=along(problem.stride),
            padding=tuple(entry if other == axis else (0, 0) for other, entry in enumerate(problem.padding)),
            dilation=along(problem.dilation),
            bias=problem.bias and last,
            in_size=size,
            special=(),
        )
        size = None if size is None else part.out_size
        result.append(part)
    return tuple(result)


def tensors(problem: ConvProblem) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the tensor arguments for a problem with a known input size; without a third axis no depth weight."""
    parts = [conv_tensors(part) for part in passes(problem)]
    weights = [None] * (3 - problem.dim) + [part["weight"] for part in parts]
    return {
        "input": parts[0]["input"],
        **dict(zip(WEIGHTS, weights, strict=True)),
        "bias": parts[-1]["bias"],
    }


def cost(problem: ConvProblem) -> Cost:
    """The sum over the passes; each runs at the size that the pass before it left."""
    named = [("×".join(map(str, part.kernel_size)) + " pass", part) for part in passes(problem)]
    return Cost(problem, tuple(step for name, part in named for step in conv_cost(part, name).steps))
