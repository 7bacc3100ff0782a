# SPDX-License-Identifier: Apache-2.0
"""The dynamic convolution through ATen: one multiply-add of whole tensors for each tap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from omniconv.core.pad import pad

LOW = (torch.float16, torch.bfloat16)


def accumulated(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    softmax: bool,
    renorm: bool,
    padding_mode: str,
) -> Tensor:
    """Shifted inputs times the kernels' slices, added up in float32 at least: memory grows with C·P, not C·P·K."""
    dim, dtype = len(stride), input.dtype
    if _autocast(input):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight = input.to(dtype), weight.to(dtype)
    in_size = input.shape[2:]
    shares = normalized(weight, in_size, stride, padding, dilation, renorm=renorm) if softmax else weight
    if any(type(p) is not int or p for p in padding):  # a traced amount is no int and may be 0 at times
        input = pad(input, padding, padding_mode)
    if dtype in LOW:
        input, shares = input.float(), shares.float()
    taps = weight.shape[2 : 2 + dim]
    by_head = input.unflatten(1, (weight.shape[1], -1))
    reads = _reads(by_head, tuple(taps), stride, dilation)
    share, *shares_left = shares.flatten(2, 1 + dim).unsqueeze(2).unbind(3)
    output = next(reads) * share
    for read, share in zip(reads, shares_left, strict=True):
        output = _add(output, read, share)
    output = output.flatten(1, 2)
    if bias is not None:
        output = output + bias.view(-1, *[1] * dim)
    return output.to(dtype)


def _add(output: Tensor, read: Tensor, share: Tensor) -> Tensor:
    """``output + read · share``, in place where no trace or transform stands between: a third of the time saved."""
    if type(output) is Tensor and torch._C._functorch.maybe_current_level() is None:  # noqa: SLF001
        return output.addcmul_(read, share)
    return output + read * share


def _reads(
    input: Tensor, taps: tuple[int, ...], stride: Sequence[int], dilation: Sequence[int], axis: int = 0
) -> Iterator[Tensor]:
    """What each tap reads of (n, h, c/h, *i) at all outputs, row by row: views, narrowed axis by axis."""
    if axis == len(taps):
        yield input
        return
    k, s, d = taps[axis], stride[axis], dilation[axis]
    reach = (input.shape[axis + 3] - d * (k - 1) - 1) // s * s + 1
    for tap in range(k):
        part = input.narrow(axis + 3, tap * d, reach)
        part = part if s == 1 else part[(slice(None),) * (axis + 3) + (slice(None, None, s),)]
        yield from _reads(part, taps, stride, dilation, axis + 1)


def _autocast(input: Tensor) -> bool:
    """Whether autocast is on and lowers tensors like ``input``, as it does for ATen's convolutions."""
    kind = input.device.type
    return input.dtype in (torch.float32, *LOW) and kind != "meta" and torch.is_autocast_enabled(kind)


def normalized(
    weight: Tensor,
    in_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *,
    renorm: bool,
) -> Tensor:
    """Softmax of (n, h, *k, *p) over the taps, in float32 where the weight has fewer bits, and left in it.

    With ``renorm`` taps on padding get no share, except where all of them lie there: those shares meet only zeros.
    """
    dim = len(stride)
    taps = weight.shape[2 : 2 + dim]
    logits = weight.flatten(2, 1 + dim)
    logits = logits.float() if logits.dtype in LOW else logits
    if not renorm:
        return logits.softmax(2).unflatten(2, taps)
    inside = _inside(taps, in_size, stride, padding, dilation, weight.device)
    left_out = ~inside & inside.any(0, keepdim=True)
    return torch.where(left_out, -torch.inf, logits).softmax(2).unflatten(2, taps)


def _inside(
    taps: Sequence[int],
    in_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    device: torch.device,
) -> Tensor:
    """Which taps of which outputs lie on data: shape (k, *p), taps row by row."""
    dim = len(taps)
    inside = torch.ones((1,) * (2 * dim), dtype=torch.bool, device=device)
    for axis, (k, size, s, d) in enumerate(zip(taps, in_size, stride, dilation, strict=True)):
        before, after = padding[2 * axis : 2 * axis + 2]
        count = (size + before + after - d * (k - 1) - 1) // s + 1
        tap, position = torch.arange(k, device=device), torch.arange(count, device=device)
        at = s * position + d * tap.unsqueeze(1) - before
        places = [1] * (2 * dim)
        places[axis], places[dim + axis] = k, count
        inside = inside & ((at >= 0) & (at < size)).view(places)
    return inside.flatten(0, dim - 1)
