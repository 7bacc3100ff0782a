# SPDX-License-Identifier: Apache-2.0
"""The depthwise separable convolution through ATen: a grouped convolution, then one with a single tap."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from omniconv.core.convolve import convolve
from omniconv.core.pad import pad


def direct(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    depthwise_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    padding_mode: str,
) -> Tensor:
    """Two calls of ATen's convolution; the first pads both sides of an axis alike with zeros."""
    between = convolve(input, depthwise_weight, depthwise_bias, stride, padding[::2], dilation, input.shape[1])
    return convolve(between, pointwise_weight, bias)


def padded(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    depthwise_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    padding_mode: str,
) -> Tensor:
    """The input padded by any amounts in any mode, then two calls of ATen's convolution without padding."""
    wide = pad(input, padding, padding_mode)
    between = convolve(wide, depthwise_weight, depthwise_bias, stride, 0, dilation, input.shape[1])
    return convolve(between, pointwise_weight, bias)
