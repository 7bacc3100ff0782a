# SPDX-License-Identifier: Apache-2.0
"""The deformable convolution out of ATen calls: gather rows of channels, weigh them, multiply by the tap's weights.

Channels lie innermost, so that a corner of a sample is one contiguous row. The input is framed by zeros, one position
before and two after each axis, and coordinates outside [-1, size] become size: every corner then exists and reads what
the border rule asks for, and the derivative is the one that the rule has, 1 at exactly -1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import product
from operator import mul
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniconv.core.pad import pad


def gathered(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    offset_groups: int,
    padding_mode: str,
) -> Tensor:
    """Tap by tap, so that no more than one tap's samples are in memory; sums and coordinates in float32 at least."""
    if padding_mode != "zeros":
        input, padding = pad(input, padding, padding_mode), (0,) * len(padding)
    dtype = torch.promote_types(input.dtype, torch.float32)
    # Sizes are spelled out, never -1: of sizes that are symbols that would be a quotient, slow to reason about.
    batch, channels, outs, taps = input.shape[0], input.shape[1], offset.shape[2:], math.prod(weight.shape[2:])
    deltas = _by_tap(offset.to(dtype), (offset_groups, taps, len(stride)))
    masks = None if mask is None else _by_tap(mask.to(dtype), (offset_groups, taps, 1))[0].flatten(1).unsqueeze(2)
    rows, pitches, index = _table(input.to(dtype), offset_groups)
    fractions = []
    for axis, pitch in enumerate(pitches):
        rest = _at_rest(axis, weight.shape[2:], outs, stride, padding, dilation, deltas)
        size = input.shape[2 + axis]
        at = deltas[axis] + rest
        at = torch.where(at < -1, size, at.clamp(-1, size))  # behind the end, where no corner is data that may be inf
        low = at.detach().floor()
        # NaN reads the frame, with weights that are NaN.
        index = index + (low.nan_to_num(-1) + 1).to(torch.int64) * pitch
        fractions.append((at - low).flatten(1).unsqueeze(2))
    index = index.flatten(1)
    kernels = weight.flatten(2).unflatten(0, (groups, weight.shape[0] // groups)).permute(3, 0, 2, 1)
    rows_of_groups = (batch * math.prod(outs), groups, channels // groups)
    total: Any = None
    for k in range(taps):
        sides = [((0, 1 - f[k]), (pitch, f[k])) for f, pitch in zip(fractions, pitches, strict=True)]
        if masks is not None:
            sides[0] = ((0, sides[0][0][1] * masks[k]), (pitches[0], sides[0][1][1] * masks[k]))
        samples = _sampled(rows, index[k], sides).to(input.dtype)
        part = torch.bmm(samples.view(rows_of_groups).transpose(0, 1), kernels[k])
        total = part.to(dtype) if total is None else total.add_(part)
    if bias is not None:
        total = total + bias.view(groups, 1, weight.shape[0] // groups)
    output = total.to(part.dtype).transpose(0, 1).reshape(batch, *outs, weight.shape[0]).movedim(-1, 1)
    channels_last = input.stride(1) == 1 and not input.is_contiguous()
    return output if channels_last else output.clone(memory_format=torch.contiguous_format)


def _by_tap(tensor: Tensor, channels: tuple[int, int, int]) -> Tensor:
    """Channels (group, tap, axis) of an offset or mask as (axis, tap, n, *out, group)."""
    return tensor.unflatten(1, channels).movedim((3, 2, 1), (0, 1, -1)).contiguous()


def _table(input: Tensor, offset_groups: int) -> tuple[Tensor, list[int], Tensor]:
    """The framed input as rows of one offset group's channels, and where they lie.

    Returns:
        The rows; how many lie between neighbours on each axis; and which one holds position -1 on every axis, for each
        sample and group, in the shape (n, 1, ..., group).
    """
    dim = input.dim() - 2
    framed = F.pad(input, (1, 2) * dim).movedim(1, -1).contiguous()
    pitches, count = [], offset_groups
    for size in reversed(framed.shape[1:-1]):
        pitches.append(count)
        count = count * size
    samples = torch.arange(input.shape[0], device=input.device).view(input.shape[0], *[1] * (dim + 1)) * count
    start = samples + torch.arange(offset_groups, device=input.device)
    rows = framed.unflatten(-1, (offset_groups, input.shape[1] // offset_groups)).flatten(0, -2)
    return rows, pitches[::-1], start


def _at_rest(
    axis: int,
    kernel: Sequence[int],
    outs: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    like: Tensor,
) -> Tensor:
    """Where each tap of each output stands on ``axis`` without an offset, shaped to meet (tap, n, *out, group)."""
    first = torch.arange(outs[axis], device=like.device, dtype=like.dtype) * stride[axis] - padding[2 * axis]
    step = torch.arange(kernel[axis], device=like.device, dtype=like.dtype) * dilation[axis]
    steps = step.view(kernel[axis], *[1] * (len(kernel) - 1 - axis)).expand(*kernel).reshape(-1)
    return steps.view(math.prod(kernel), *[1] * (len(outs) + 2)) + first.view(outs[axis], *[1] * (len(outs) - axis))


def _sampled(rows: Tensor, index: Tensor, sides: list[tuple[tuple[int, Tensor], tuple[int, Tensor]]]) -> Tensor:
    """One row for each ``index``: the rows at the corners, each weighted by its nearness along every axis."""
    total: Any = None
    for corner in product(*sides):
        row = rows.index_select(0, index + sum(jump for jump, _ in corner))
        near = reduce(mul, (near for _, near in corner))
        total = row * near if total is None else torch.addcmul(total, row, near)
    return total
