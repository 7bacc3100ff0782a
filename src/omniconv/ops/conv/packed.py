# SPDX-License-Identifier: Apache-2.0
"""Pointwise convolutions in eager inference, whose weights stay packed between calls."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from omniconv.core.flat import Flat
from omniconv.core.follow import Packing
from omniconv.core.problem import ConvProblem

from . import FAMILY, is_unpadded_pointwise

LEAST_PACKED = 1 << 12  # weights: fewer are packed in less time than Python takes to look for them


class PackedPointwise:
    """The compiled kernel for one pointwise problem, called with its tensors alone."""

    def __init__(self, flat: tuple[int, ...]) -> None:
        self.packing = Packing()
        self._flat, self._followed = flat, (*flat, 0)  # no activation
        self._plain = torch.ops.omniconv.conv_native_raw.default._op  # noqa: SLF001
        self._packed = torch.ops.omniconv.pointwise_followed.default._op  # noqa: SLF001

    def __call__(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        packed = self.packing.of(input, weight)
        if packed is None:
            return self._plain(input, weight, bias, self._flat)
        return self._packed(input, weight, packed, bias, [], 0.0, None, self._followed)


if hasattr(torch.ops.omniconv, "pointwise_followed"):

    @register_flop_formula(torch.ops.omniconv.pointwise_followed)
    def _flops(input: Any, weight: Any, *others: Any, out_shape: Any, **more: Any) -> int:
        return 2 * prod(out_shape) * int(weight[1])


def packed_bound(problem: ConvProblem, recorded: object, *numbers: Any) -> tuple[Callable[..., Tensor] | None, None]:
    """What eager inference calls for a pointwise problem."""
    if not is_unpadded_pointwise(problem) or problem.in_channels * problem.out_channels < LEAST_PACKED:
        return None, None
    return PackedPointwise(Flat(FAMILY.schema, ("zeros",)).pack(numbers)), None
