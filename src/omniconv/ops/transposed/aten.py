# SPDX-License-Identifier: Apache-2.0
"""The transposed convolution through ATen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from omniconv.core.convolve import Bound, bound, convolve_transposed, copying
from omniconv.core.pad import pad
from omniconv.core.problem import ConvProblem

LEAST_ELEMENTS = 1 << 16  # of an input, from where on copies to channels last and back cost less than they save


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
    extra = _appended(padding, output_padding)
    return convolve_transposed(input, weight, bias, stride, padding[::2], extra, dilation, groups)


def direct_bound(
    problem: ConvProblem,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Bound | None:
    """``direct`` with its numbers."""
    numbers = {"stride": stride, "padding": padding[::2], "output_padding": _appended(padding, output_padding)}
    return bound(problem, **numbers, dilation=dilation, groups=groups)


def channels_last(input: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """Of larger inputs ``direct`` on a copy whose channels lie side by side, and the result laid back in order."""
    return copying(lambda *tensors: direct(*tensors, *numbers), _is_large)(input, weight, bias)


def channels_last_bound(problem: ConvProblem, *numbers: Any) -> Bound | None:
    """``channels_last`` with its numbers."""
    in_order = direct_bound(problem, *numbers)
    return in_order and copying(in_order, _is_large)


def _is_large(input: Tensor) -> bool:
    return input.numel() >= LEAST_ELEMENTS


def _appended(padding: Sequence[int], output_padding: Sequence[int]) -> list[int]:
    """What ATen is to append where it crops both sides by what is cropped before."""
    pairs = zip(output_padding, padding[::2], padding[1::2], strict=True)
    return [more + before - after for more, before, after in pairs]


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
