# SPDX-License-Identifier: Apache-2.0
"""EffNet: depthwise convolutions of one row and of one column, with the pooling between them; by the paper's table.

Freeman, Roese-Koerner & Kummert, EffNet: An Efficient Structure for Convolutional Neural Networks, 2018.
"""

from __future__ import annotations

from torch import Tensor, nn

from omniconv.nn import Conv2d, DepthwiseConv2d, PointwiseConv2d

from .drawing import draw_for_relu

WIDTHS = (64, 128, 256)


def _activated(conv: nn.Module, channels: int) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(channels), nn.LeakyReLU(0.3)]


class Block(nn.Sequential):
    """1×1 to half of the outputs, 1×3, a maximum over two rows, 3×1, and 1×2 with a stride of two columns."""

    def __init__(self, inputs: int, outputs: int) -> None:
        width = outputs // 2
        super().__init__(
            *_activated(PointwiseConv2d(inputs, width, bias=False), width),
            *_activated(DepthwiseConv2d(width, (1, 3), padding="same", bias=False), width),
            nn.MaxPool2d((2, 1)),
            *_activated(DepthwiseConv2d(width, (3, 1), padding="same", bias=False), width),
            *_activated(Conv2d(width, outputs, (1, 2), (1, 2), bias=False), outputs),
        )


class EffNet(nn.Module):
    """Three blocks and a linear map of the means over all positions, where the paper maps every position of 4×4."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(*(Block(*pair) for pair in zip((3, *WIDTHS), WIDTHS, strict=False)))
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        draw_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes); h and w are at least 8."""
        return self.classifier(self.features(x).mean((2, 3)))


def effnet(num_classes: int = 10) -> EffNet:
    """EffNet for images of 32×32, such as CIFAR-10's."""
    return EffNet(num_classes)
