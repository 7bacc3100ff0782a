# SPDX-License-Identifier: Apache-2.0
"""The block with gradients: its parts in turn, so that what stands between is kept and not computed anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan

from .cost import parts

Function = Callable[..., Tensor]


def packed_bound(problem: ConvProblem, recorded: Function, *numbers: Any) -> tuple[None, Function | None]:
    """What eager code with gradients calls; in bfloat16 ``recorded``, which rounds nothing between the parts."""
    depthwise, pointwise = (Plan(part) for part in parts(problem))
    if not (depthwise.choice.kernel.compiled and pointwise.choice.kernel.compiled):
        return None, None

    def kept(input: Tensor, taps: Tensor, across: Tensor, bias: Tensor | None, shift: Tensor | None) -> Tensor:
        if input.dtype is not torch.float32:
            return recorded(input, taps, across, bias, shift)
        return pointwise(depthwise(input, taps, shift), across, bias)

    return None, kept
