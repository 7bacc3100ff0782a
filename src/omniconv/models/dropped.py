# SPDX-License-Identifier: Apache-2.0
"""Stochastic depth: in training, the branch of a block is left out for some samples.

Huang et al., Deep Networks with Stochastic Depth, 2016.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropped(nn.Module):
    """Zeros in place of a sample's branch, as often as ``share``; the others divided by ``1 - share``."""

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"`share` (={share}) must be 0 or more and less than 1.")
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """(n, …) to the same."""
        if not self.training or not self.share:
            return x
        kept = torch.rand(len(x), *(1,) * (x.dim() - 1), device=x.device) >= self.share
        return x * kept.to(x.dtype) / (1 - self.share)
