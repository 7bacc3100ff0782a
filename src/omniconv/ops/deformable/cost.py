# SPDX-License-Identifier: Apache-2.0
"""Cost and tensor shapes of a deformable convolution, and the ordinary convolution that predicts its offsets."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from omniconv.core.cost import Cost, letters_of, step_of
from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.cost import cost as conv_cost


def offset_channels(problem: ConvProblem) -> int:
    """Channels of the offset: one number per axis for each tap of each offset group."""
    return problem.number("offset_groups") * prod(problem.kernel_size) * problem.dim


def mask_channels(problem: ConvProblem) -> int:
    """Channels of the mask: one number for each tap of each offset group, or none at all."""
    return problem.number("mask") * problem.number("offset_groups") * prod(problem.kernel_size)


def head(problem: ConvProblem) -> ConvProblem:
    """The ordinary convolution that predicts offset and mask from the input, at the geometry of ``problem``."""
    channels = offset_channels(problem) + mask_channels(problem)
    return replace(problem, family="conv", out_channels=channels, groups=1, special=())


def tensors(problem: ConvProblem) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the tensor arguments for a problem with a known input size."""
    batch, c, o = problem.batch or 0, problem.in_channels, problem.out_channels
    return {
        "input": (batch, c, *(problem.in_size or ())),
        "offset": (batch, offset_channels(problem), *problem.out_size),
        "weight": (o, c // problem.groups, *problem.kernel_size),
        "bias": (o,) if problem.bias else None,
        "mask": (batch, mask_channels(problem), *problem.out_size) if problem["mask"] else None,
    }


def cost(problem: ConvProblem) -> Cost:
    """The products of an ordinary convolution, on samples that each cost 2^dim multiply-adds, counted apart.

    E = 2^dim corners of a sample; D channels of offset and mask, which are read, or predicted by a step of their own.
    """
    letters = letters_of(problem) | {
        "D": offset_channels(problem) + mask_channels(problem),
        "E": 2**problem.dim,
    }
    step = step_of(
        "deformable convolution",
        letters,
        params="O*C//G*K",
        macs="N*P*O*C//G*K",
        inputs="N*C*I + N*D*P",
        outputs="N*O*P",
        bias="O" if problem.bias else "0",
        bias_adds="N*P*O" if problem.bias else "0",
        sampling="N*P*K*C*E",
        walk=problem,
    )
    before = conv_cost(head(problem), "offset head").steps if problem["head"] else ()
    return Cost(problem, (*before, step))
