# SPDX-License-Identifier: Apache-2.0
"""The block with gradients: its parts in turn, so that what stands between is kept and not computed anew."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan

from .cost import parts

Function = Callable[..., Tensor]


if hasattr(torch.ops.omniconv, "separable_followed"):

    @register_flop_formula(torch.ops.omniconv.separable_followed)
    def _flops(
        input: Any, taps: Any, bias: Any, norm: Any, epsilon: Any, across: Any, *others: Any, **more: Any
    ) -> int:
        samples, outputs, *positions = more["out_shape"]
        return 2 * samples * prod(positions) * taps[0] * (prod(taps[2:]) + outputs)

    @register_flop_formula(torch.ops.omniconv.inverted_followed)
    def _inverted_flops(
        input: Any, weight: Any, packed: Any, bias: Any, norm: Any, epsilon: Any, *others: Any, **more: Any
    ) -> int:
        return 2 * prod(input) * int(weight[0]) + _flops(None, *others, **more)


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
