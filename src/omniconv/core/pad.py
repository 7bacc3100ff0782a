# SPDX-License-Identifier: Apache-2.0
"""Padding a tensor by any amounts in any mode, which every kernel needs that ATen's own padding does not serve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pad(input: Tensor, padding: Sequence[int], padding_mode: str) -> Tensor:
    """Pad by (before, after) per axis, first axis first; torch's order is the last axis first."""
    pairs = [tuple(padding[i : i + 2]) for i in range(0, len(padding), 2)]
    if padding_mode == "circular":
        for axis, (before, after) in enumerate(pairs, start=2):
            input = _turned(input, axis, before, after)
        return input
    flat = [p for pair in reversed(pairs) for p in pair]
    return F.pad(input, flat, mode="constant" if padding_mode == "zeros" else padding_mode)


def _turned(input: Tensor, axis: int, before: int, after: int) -> Tensor:
    """The end of an axis put before it and its start after it. ``F.pad`` would lose a channels-last layout."""
    if any(isinstance(amount, torch.SymInt) for amount in (before, after)):
        # an export would keep for every size the answer to whether the piece before is empty
        around = torch.arange(-before, input.shape[axis] + after, device=input.device) % input.shape[axis]
        return input.index_select(axis, around)
    pieces = [input.narrow(axis, input.shape[axis] - before, before)] if before else []
    pieces += [input, input.narrow(axis, 0, after)] if after else [input]
    return torch.cat(pieces, dim=axis) if len(pieces) > 1 else input
