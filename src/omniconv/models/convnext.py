# SPDX-License-Identifier: Apache-2.0
"""ConvNeXt-T: depthwise 7×7, a norm over channels, and two linear maps; named as torchvision's.

Liu et al., A ConvNet for the 2020s, 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniconv.nn import Conv2d, DepthwiseConv2d, Linear

from .dropped import Dropped

CHANNELS, BLOCKS = (96, 192, 384, 768), (3, 3, 9, 3)
MOST_LEFT_OUT = 0.1  # how often training leaves the branch of the last block out; of earlier ones in proportion


class LayerNorm2d(nn.LayerNorm):
    """Over the channels of each position."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class _Moved(nn.Module):
    """The axes of a tensor in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """A view."""
        return x.permute(self.order)


class Block(nn.Module):
    """Depthwise 7×7, norm, four times as many channels, GELU, back; scaled and added."""

    def __init__(self, channels: int, left_out: float) -> None:
        super().__init__()
        self.block = nn.Sequential(
            DepthwiseConv2d(channels, 7, 1, 3),
            _Moved(0, 2, 3, 1),
            nn.LayerNorm(channels, eps=1e-6),
            Linear(channels, 4 * channels),
            nn.GELU(),
            Linear(4 * channels, channels),
            _Moved(0, 3, 1, 2),
        )
        self.layer_scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))
        self.dropped = Dropped(left_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        return x + self.dropped(self.layer_scale * self.block(x))


class ConvNeXt(nn.Module):
    """Patches of 4×4, four stages of blocks, and patches of 2×2 between them."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        count = sum(BLOCKS)
        first, last = CHANNELS[0], CHANNELS[-1]
        layers: list[nn.Module] = [nn.Sequential(Conv2d(3, first, 4, 4), LayerNorm2d(first, eps=1e-6))]
        at = 0
        for stage, (channels, blocks) in enumerate(zip(CHANNELS, BLOCKS, strict=True)):
            if stage:
                before = CHANNELS[stage - 1]
                layers.append(nn.Sequential(LayerNorm2d(before, eps=1e-6), Conv2d(before, channels, 2, 2)))
            made = [Block(channels, MOST_LEFT_OUT * (at + number) / (count - 1)) for number in range(blocks)]
            layers.append(nn.Sequential(*made))
            at += blocks
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(LayerNorm2d(last, eps=1e-6), nn.Flatten(), nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, Conv2d | DepthwiseConv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        return self.classifier(self.features(x).mean((2, 3), keepdim=True))


def convnext_tiny(num_classes: int = 1000) -> ConvNeXt:
    """ConvNeXt-T: 28,589,128 parameters and 4.46 G multiply-adds at 224×224 with 1000 classes."""
    return ConvNeXt(num_classes)
