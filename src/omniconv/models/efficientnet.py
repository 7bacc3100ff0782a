# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-B0: inverted residuals with squeeze and excitation; named as torchvision's.

Tan & Le, EfficientNet, 2019; Hu et al., Squeeze-and-Excitation Networks, 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniconv.nn import Conv2d, DepthwiseConv2d, PointwiseConv2d

from .drawing import draw_for_relu
from .dropped import Dropped

# Times as wide inside, taps, stride of the first, outputs, blocks
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
MOST_LEFT_OUT = 0.2  # how often training leaves the branch of a last block out; of earlier ones in proportion


def _with_norm(conv: nn.Module, channels: int, *, activated: bool = True) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(channels), *([nn.SiLU(inplace=True)] if activated else []))


class SqueezeExcitation(nn.Module):
    """A factor for each channel, from the means of all."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = PointwiseConv2d(channels, squeezed)
        self.fc2 = PointwiseConv2d(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        means = nn.functional.silu(self.fc1(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.fc2(means))


class MBConv(nn.Module):
    """1×1 to more channels, depthwise, squeeze and excitation, 1×1 to few; the input is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, times: int, taps: int, stride: int, left_out: float) -> None:
        super().__init__()
        width = inputs * times
        layers: list[nn.Module] = []
        if times != 1:
            layers.append(_with_norm(PointwiseConv2d(inputs, width, bias=False), width))
        spatial = DepthwiseConv2d(width, taps, stride, taps // 2, bias=False)
        layers += [_with_norm(spatial, width), SqueezeExcitation(width, max(inputs // 4, 1))]
        layers.append(_with_norm(PointwiseConv2d(width, outputs, bias=False), outputs, activated=False))
        self.block = nn.Sequential(*layers)
        self.adds, self.dropped = stride == 1 and inputs == outputs, Dropped(left_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, ⌈h/s⌉, ⌈w/s⌉)."""
        y: Tensor = self.block(x)
        return x + self.dropped(y) if self.adds else y


class EfficientNet(nn.Module):
    """A standard convolution, sixteen inverted residuals, a pointwise convolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        count = sum(stage[-1] for stage in STAGES)
        layers: list[nn.Module] = [_with_norm(Conv2d(3, 32, 3, 2, 1, bias=False), 32)]
        inputs, at = 32, 0
        for times, taps, stride, outputs, blocks in STAGES:
            stage = []
            for number in range(blocks):
                own = MOST_LEFT_OUT * at / count
                stage.append(MBConv(inputs, outputs, times, taps, stride if number == 0 else 1, own))
                inputs, at = outputs, at + 1
            layers.append(nn.Sequential(*stage))
        layers.append(_with_norm(PointwiseConv2d(inputs, 1280, bias=False), 1280))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        draw_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        return self.classifier(self.features(x).mean((2, 3)))


def efficientnet_b0(num_classes: int = 1000) -> EfficientNet:
    """EfficientNet-B0: 5,288,548 parameters and 0.39 G multiply-adds at 224×224 with 1000 classes."""
    return EfficientNet(num_classes)
