# SPDX-License-Identifier: Apache-2.0
"""The ordinary convolution through ATen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from omniconv.core.convolve import Bound, bound, convolve, copying
from omniconv.core.pad import pad
from omniconv.core.problem import ConvProblem

# Of the sizes that a layer learns only from its input; measured as docs/decisions/0004 says.
MORE_COLUMNS_THAN = 28
LEAST_POSITIONS = 256


def direct(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    """One call of ATen's convolution, which pads both sides of an axis alike with zeros."""
    return convolve(input, weight, bias, stride, padding[::2], dilation, groups)


def direct_bound(
    problem: ConvProblem,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Bound | None:
    """``direct`` with its numbers."""
    return bound(problem, stride=stride, padding=padding[::2], dilation=dilation, groups=groups)


def channels_last(input: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """Where rows are long, ``direct`` on a copy whose channels lie side by side, and the result laid back in order."""
    return copying(lambda *tensors: direct(*tensors, *numbers), _has_long_rows)(input, weight, bias)


def channels_last_bound(problem: ConvProblem, *numbers: Any) -> Bound | None:
    """``channels_last`` with its numbers."""
    in_order = direct_bound(problem, *numbers)
    return in_order and copying(in_order, _has_long_rows)


def _has_long_rows(input: Tensor) -> bool:
    return input.shape[-1] > MORE_COLUMNS_THAN


def image(input: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """Of (N, L, C) storage an image of one row, whose channels ATen reads as they lie; of other storage ``direct``."""
    if not _lies_by_positions(input):
        return direct(input, weight, bias, *numbers)
    stride, padding, dilation, groups, mode = numbers
    wide = (1, *stride), (0, 0, *padding), (1, *dilation), groups, mode
    return direct(input.unsqueeze(2), weight.unsqueeze(2), bias, *wide).squeeze(2)


def image_bound(problem: ConvProblem, *numbers: Any) -> Bound | None:
    """``image`` with its numbers."""
    in_order = direct_bound(problem, *numbers)
    if in_order is None:
        return None

    def call(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if _lies_by_positions(input):
            return image(input, weight, bias, *numbers)
        return in_order(input, weight, bias)

    return call


def _lies_by_positions(input: Tensor) -> bool:
    if input.stride(1) != 1 or input.stride(2) != input.shape[1] or not input.is_cpu:
        return False
    return input.shape[0] > 1 or input.shape[2] >= LEAST_POSITIONS


def padded(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    """The input padded by any amounts in any mode, then ATen's convolution without padding."""
    wide = pad(input, padding, padding_mode)
    return convolve(wide, weight, bias, stride, 0, dilation, groups)
