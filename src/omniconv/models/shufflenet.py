# SPDX-License-Identifier: Apache-2.0
"""ShuffleNetV1 of three groups and ShuffleNetV2, both at width 1×; V2 is named as torchvision's.

Zhang et al., ShuffleNet, 2017; Ma et al., ShuffleNet V2, 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniconv.nn import Conv2d, DepthwiseConv2d, PointwiseConv2d

from .drawing import draw_for_relu

V1_CHANNELS = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}
V2_CHANNELS = (24, 116, 232, 464, 1024)
BLOCKS = (4, 8, 4)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channels dealt out, so that each group of the next convolution sees every group of the last."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class UnitV1(nn.Module):
    """Grouped 1×1, shuffle, depthwise 3×3, grouped 1×1; its input is added, or pooled and put beside it."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, *, first: bool) -> None:
        super().__init__()
        width, made = outputs // 4, outputs - inputs if stride == 2 else outputs
        self.groups, self.stride = groups, stride
        # The first of all has too few channels to be grouped
        self.reduce = PointwiseConv2d(inputs, width, groups=1 if first else groups, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.spatial = DepthwiseConv2d(width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.expand = PointwiseConv2d(width, made, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.pool = nn.AvgPool2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, ⌈h/s⌉, ⌈w/s⌉)."""
        y = shuffled(torch.relu(self.bn1(self.reduce(x))), self.groups)
        y = self.bn3(self.expand(self.bn2(self.spatial(y))))
        return torch.relu(x + y if self.stride == 1 else torch.cat([self.pool(x), y], 1))


class ShuffleNetV1(nn.Module):
    """A standard convolution, pooling, and three stages of units."""

    def __init__(self, num_classes: int, groups: int) -> None:
        super().__init__()
        if groups not in V1_CHANNELS:
            raise ValueError(f"`groups` (={groups}) must be one of the paper's, {', '.join(map(str, V1_CHANNELS))}.")
        self.conv1 = Conv2d(3, 24, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.pool = nn.MaxPool2d(3, 2, 1)
        units, inputs = [], 24
        for outputs, count in zip(V1_CHANNELS[groups], BLOCKS, strict=True):
            for number in range(count):
                units.append(UnitV1(inputs, outputs, 2 if number == 0 else 1, groups, first=inputs == 24))
                inputs = outputs
        self.units = nn.Sequential(*units)
        self.fc = nn.Linear(inputs, num_classes)
        draw_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.units(x).mean((2, 3)))


def _branch(*parts: tuple[nn.Module, int, bool]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for conv, channels, activated in parts:
        layers += [conv, nn.BatchNorm2d(channels), *([nn.ReLU(inplace=True)] if activated else [])]
    return nn.Sequential(*layers)


class UnitV2(nn.Module):
    """Half of the channels pass, half go through 1×1, depthwise 3×3, 1×1; with a stride both halves are convolved."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        reads = inputs if stride == 2 else half
        self.stride = stride
        self.branch1 = nn.Sequential()
        if stride == 2:
            self.branch1 = _branch(
                (DepthwiseConv2d(inputs, 3, 2, 1, bias=False), inputs, False),
                (PointwiseConv2d(inputs, half, bias=False), half, True),
            )
        self.branch2 = _branch(
            (PointwiseConv2d(reads, half, bias=False), half, True),
            (DepthwiseConv2d(half, 3, stride, 1, bias=False), half, False),
            (PointwiseConv2d(half, half, bias=False), half, True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, ⌈h/s⌉, ⌈w/s⌉)."""
        passed, read = x.chunk(2, 1) if self.stride == 1 else (self.branch1(x), x)
        return shuffled(torch.cat([passed, self.branch2(read)], 1), 2)


class ShuffleNetV2(nn.Module):
    """A standard convolution, pooling, three stages of units, a pointwise convolution."""

    stage2: nn.Module
    stage3: nn.Module
    stage4: nn.Module

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        first, *stages, last = V2_CHANNELS
        self.conv1 = _branch((Conv2d(3, first, 3, 2, 1, bias=False), first, True))
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = first
        for number, (outputs, count) in enumerate(zip(stages, BLOCKS, strict=True)):
            units = [UnitV2(inputs if at == 0 else outputs, outputs, 2 if at == 0 else 1) for at in range(count)]
            self.add_module(f"stage{number + 2}", nn.Sequential(*units))
            inputs = outputs
        self.conv5 = _branch((PointwiseConv2d(inputs, last, bias=False), last, True))
        self.fc = nn.Linear(last, num_classes)
        draw_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        x = self.maxpool(self.conv1(x))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        return self.fc(x.mean((2, 3)))


def shufflenet_v1(num_classes: int = 1000, groups: int = 3) -> ShuffleNetV1:
    """ShuffleNetV1 1×: the paper counts 137 M multiply-adds at 224×224 with three groups."""
    return ShuffleNetV1(num_classes, groups)


def shufflenet_v2(num_classes: int = 1000) -> ShuffleNetV2:
    """ShuffleNetV2 1×: 146 M multiply-adds, of which 144,907,992 in convolutions; 2,278,604 parameters."""
    return ShuffleNetV2(num_classes)
