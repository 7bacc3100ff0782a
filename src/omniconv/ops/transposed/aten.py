# SPDX-License-Identifier: Apache-2.0
"""The transposed convolution through ATen."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from omniconv.core.convolve import convolve_transposed
from omniconv.core.pad import pad


def direct(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """One call of ATen's kernel, which crops both sides alike: what is cropped less after than before is appended."""
    crop = padding[::2]
    extra = [more + before - after for more, before, after in zip(output_padding, crop, padding[1::2], strict=True)]
    return convolve_transposed(input, weight, bias, stride, crop, extra, dilation, groups)


def cropped(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """ATen's kernel with the crop that both sides share, then the rest cut away: padding by less than nothing."""
    befores, afters = padding[::2], padding[1::2]
    shared = [min(pair) for pair in zip(befores, afters, strict=True)]
    ends = [more + least - after for more, least, after in zip(output_padding, shared, afters, strict=True)]
    extra = [max(end, 0) for end in ends]
    output = convolve_transposed(input, weight, bias, stride, shared, extra, dilation, groups)
    cut = [
        amount
        for before, least, end in zip(befores, shared, ends, strict=True)
        for amount in (least - before, min(end, 0))
    ]
    return pad(output, cut, "zeros")
