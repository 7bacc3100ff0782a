# SPDX-License-Identifier: Apache-2.0
"""Blur pooling through ATen."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor

from omniconv.core.convolve import convolve
from omniconv.core.pad import pad


def depthwise(
    input: Tensor, kernel_size: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """The outer product of binomial rows, repeated for every channel."""
    channels = input.shape[1]
    weight = input.new_ones(channels, 1, *[1] * len(kernel_size))
    for axis, k in enumerate(kernel_size):
        binomial = [comb(k - 1, t) / 2 ** (k - 1) for t in range(k)]
        row = torch.tensor(binomial, dtype=input.dtype, device=input.device)
        weight = weight * row.view(-1, *[1] * (len(kernel_size) - 1 - axis))
    return convolve(pad(input, padding, "zeros"), weight, None, stride, 0, dilation, channels)
