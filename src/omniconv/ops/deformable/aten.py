# SPDX-License-Identifier: Apache-2.0
"""The deformable convolution out of ATen calls: gather rows of channels, weigh them, multiply by the tap's weights.

Channels lie innermost, so that a corner of a sample is one contiguous row. The input is framed by zeros, one position
before and two after each axis, and coordinates are clamped to [-1, size]: every corner then exists and reads what the
border rule asks for, and clamping has the derivative that the rule has, 1 at exactly -1.
"""

from __future__ import annotations

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
    if input.is_complex():
        raise TypeError(f"`input` dtype (={input.dtype}) must be real: offsets are positions; use torch.float32.")
    dim, kernel, outs = len(stride), weight.shape[2:], offset.shape[2:]
    if padding_mode != "zeros":
        input, padding = pad(input, padding, padding_mode), (0,) * len(padding)
    dtype = torch.promote_types(input.dtype, torch.float32)
    rows, pitches, start = _table(input.to(dtype), offset_groups)
    deltas = offset.to(dtype).unflatten(1, (offset_groups, -1, dim)).movedim(1, -1)
    masks = None if mask is None else mask.to(dtype).unflatten(1, (offset_groups, -1)).movedim(1, -1)
    grid = [_along(axis, outs, stride[axis], padding[2 * axis], deltas) for axis in range(dim)]
    taps = weight.flatten(2).unflatten(0, (groups, -1)).permute(3, 0, 2, 1)
    total: Any = None
    for k, tap in enumerate(product(*map(range, kernel))):
        positions = [
            (deltas[:, k, axis] + (grid[axis] + dilation[axis] * tap[axis])).clamp(-1, input.shape[2 + axis])
            for axis in range(dim)
        ]
        samples = _sampled(rows, start, pitches, positions, None if masks is None else masks[:, k])
        columns = samples.to(input.dtype).view(-1, groups, input.shape[1] // groups).transpose(0, 1)
        part = torch.bmm(columns, taps[k])
        total = part.to(dtype) if total is None else total + part
    if bias is not None:
        total = total + bias.view(groups, 1, -1)
    output = total.to(part.dtype).transpose(0, 1).reshape(input.shape[0], *outs, weight.shape[0]).movedim(-1, 1)
    channels_last = input.stride(1) == 1 and not input.is_contiguous()
    return output if channels_last else output.contiguous()


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
    samples = torch.arange(input.shape[0], device=input.device).view(-1, *[1] * (dim + 1)) * count
    start = samples + torch.arange(offset_groups, device=input.device)
    return framed.view(-1, input.shape[1] // offset_groups), pitches[::-1], start


def _along(axis: int, outs: Sequence[int], stride: int, before: int, like: Tensor) -> Tensor:
    """Where the first tap stands on ``axis`` at each output position, shaped to meet (n, *out, group)."""
    at = torch.arange(outs[axis], device=like.device, dtype=like.dtype) * stride - before
    return at.view(-1, *[1] * (len(outs) - axis))


def _sampled(rows: Tensor, start: Tensor, pitches: list[int], positions: list[Tensor], mask: Tensor | None) -> Tensor:
    """One row per position: the rows at its corners weighted by nearness, and by the mask.

    A coordinate that is NaN reads the frame, with weights that are NaN.
    """
    index, sides = start, []
    for at, pitch in zip(positions, pitches, strict=True):
        low = at.detach().floor()
        index = index + (low.nan_to_num(-1) + 1).to(torch.int64) * pitch
        sides.append([(0, 1 - (at - low)), (pitch, at - low)])
    if mask is not None:
        sides[0] = [(step, near * mask) for step, near in sides[0]]
    total: Any = None
    for corner in product(*sides):
        row = rows.index_select(0, (index + sum(step for step, _ in corner)).reshape(-1))
        near = reduce(mul, (near for _, near in corner)).reshape(-1, 1)
        total = row * near if total is None else torch.addcmul(total, row, near)
    return total
