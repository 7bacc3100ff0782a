# SPDX-License-Identifier: Apache-2.0
"""The ordinary convolution through ATen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from omniconv.core.convolve import convolve
from omniconv.core.pad import pad


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
