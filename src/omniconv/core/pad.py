# SPDX-License-Identifier: Apache-2.0
"""Padding a tensor by any amounts in any mode, which every kernel needs that ATen's own padding does not serve."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pad(input: Tensor, padding: Sequence[int], padding_mode: str) -> Tensor:
    """Pad by (before, after) per axis, first axis first; torch's order is the last axis first."""
    pairs = [tuple(padding[i : i + 2]) for i in range(0, len(padding), 2)]
    flat = [p for pair in reversed(pairs) for p in pair]
    return F.pad(input, flat, mode="constant" if padding_mode == "zeros" else padding_mode)
