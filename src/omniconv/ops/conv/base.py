# SPDX-License-Identifier: Apache-2.0
"""What every layer of the family has: torch's arguments, one weight, one bias."""

from __future__ import annotations

from typing import Any

from omniconv.core.layer import ConvLayer
from omniconv.core.problem import ConvProblem


class Conv(ConvLayer):
    """Base of the family's layers. A subclass sets ``dim``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        problem = ConvProblem.of(
            "conv",
            self.dim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias=bias,
            padding_mode=padding_mode,
        )
        shape = (problem.out_channels, problem.in_channels // problem.groups, *problem.kernel_size)
        super().__init__(problem, shape, padding, device, dtype)
