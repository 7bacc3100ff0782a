# SPDX-License-Identifier: Apache-2.0
"""The depthwise separable convolution through ATen: a grouped convolution, then one with a single tap."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from omniconv.core.pad import pad

_CONV = (F.conv1d, F.conv2d, F.conv3d)


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
    conv, channels = _CONV[len(stride) - 1], input.shape[1]
    between = conv(input, depthwise_weight, depthwise_bias, stride, padding[::2], dilation, channels)
    return conv(between, pointwise_weight, bias)


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
    conv, wide = _CONV[len(stride) - 1], pad(input, padding, padding_mode)
    between = conv(wide, depthwise_weight, depthwise_bias, stride, 0, dilation, input.shape[1])
    return conv(between, pointwise_weight, bias)
