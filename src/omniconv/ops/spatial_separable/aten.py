# SPDX-License-Identifier: Apache-2.0
"""The spatially separable convolution through ATen: one convolution per axis."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from omniconv.core.convolve import convolve
from omniconv.core.pad import pad


def direct(
    input: Tensor,
    depth_weight: Tensor | None,
    column_weight: Tensor,
    row_weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    """One call of ATen's convolution per axis, each padding its axis alike on both sides with zeros."""
    dim, weights = len(stride), _in_order(depth_weight, column_weight, row_weight)
    for axis, weight in enumerate(weights):
        steps, holes = _along(stride, axis, 1), _along(dilation, axis, 1)
        zeros = _along(padding[::2], axis, 0)
        input = convolve(input, weight, bias if axis == dim - 1 else None, steps, zeros, holes, groups)
    return input


def padded(
    input: Tensor,
    depth_weight: Tensor | None,
    column_weight: Tensor,
    row_weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    """Each pass pads its own axis, by any amounts in any mode, so that no pass works on padding of another."""
    dim, weights = len(stride), _in_order(depth_weight, column_weight, row_weight)
    for axis, weight in enumerate(weights):
        amounts = [0] * (2 * dim)
        amounts[2 * axis : 2 * axis + 2] = padding[2 * axis : 2 * axis + 2]
        wide = pad(input, amounts, padding_mode)
        steps, holes = _along(stride, axis, 1), _along(dilation, axis, 1)
        input = convolve(wide, weight, bias if axis == dim - 1 else None, steps, 0, holes, groups)
    return input


def _in_order(*weights: Tensor | None) -> list[Tensor]:
    return [weight for weight in weights if weight is not None]


def _along(values: Sequence[int], axis: int, elsewhere: int) -> list[int]:
    return [value if other == axis else elsewhere for other, value in enumerate(values)]
