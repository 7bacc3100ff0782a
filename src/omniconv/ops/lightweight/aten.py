# SPDX-License-Identifier: Apache-2.0
"""The lightweight convolution through ATen's depthwise convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
    softmax: bool,
    head_layout: str,
    padding_mode: str,
) -> Tensor:
    """The kernel of each head repeated for its channels, then one depthwise convolution that pads by itself."""
    filters = per_channel(normalized(weight) if softmax else weight, input.shape[1], head_layout)
    return convolve(input, filters, bias, stride, padding[::2], dilation, input.shape[1])


def padded(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    softmax: bool,
    head_layout: str,
    padding_mode: str,
) -> Tensor:
    """The input padded by any amounts in any mode first."""
    filters = per_channel(normalized(weight) if softmax else weight, input.shape[1], head_layout)
    wide = pad(input, padding, padding_mode)
    return convolve(wide, filters, bias, stride, 0, dilation, input.shape[1])


def normalized(weight: Tensor) -> Tensor:
    """Softmax over the taps of each head, computed in float32 where the weight has fewer bits."""
    wide = torch.float32 if weight.dtype in (torch.float16, torch.bfloat16) else weight.dtype
    return weight.flatten(1).softmax(1, dtype=wide).view(weight.shape).to(weight.dtype)


def per_channel(weight: Tensor, channels: int, head_layout: str) -> Tensor:
    """Kernels (h, *k) as depthwise filters (c, 1, *k): head c // (C/H) in blocks, c mod H interleaved."""
    repeats = channels // weight.shape[0]
    if head_layout == "block":
        filters = weight.unsqueeze(1).expand(-1, repeats, *weight.shape[1:])
    else:
        filters = weight.unsqueeze(0).expand(repeats, *weight.shape)
    return filters.flatten(0, 1).unsqueeze(1)
