# SPDX-License-Identifier: Apache-2.0
"""Dilated residual networks A, C and D: classifiers whose last maps are an eighth of the input; named as fyu/drn.

Yu, Koltun & Funkhouser, Dilated Residual Networks, 2017. A trades the strides of ResNet's last two stages for
dilation; C starts with convolutions instead of pooling and ends with blocks of falling dilation, without shortcuts,
against gridding; D has plain convolutions in these places.
"""

from __future__ import annotations

from math import sqrt

from torch import Tensor, nn

from omniconv.nn import Conv2d, PointwiseConv2d

CHANNELS = (16, 32, 64, 128, 256, 512, 512, 512)
Dilations = tuple[int, int]  # of the two convolutions of a block


class BasicBlock(nn.Module):
    """Two 3×3 convolutions; the input is added unless ``shortcut`` is off."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, dilations: Dilations, *, shortcut: bool = True) -> None:
        super().__init__()
        first, second = dilations
        self.conv1 = Conv2d(inputs, planes, 3, stride, first, first, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = Conv2d(planes, planes, 3, 1, second, second, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _across(inputs, planes, stride)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, ⌈h/s⌉, ⌈w/s⌉)."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.shortcut:
            y = y + (x if self.downsample is None else self.downsample(x))
        return self.relu(y)


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1; the input is added."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int, dilations: Dilations) -> None:
        super().__init__()
        dilation, outputs = dilations[1], planes * self.expansion
        self.conv1 = PointwiseConv2d(inputs, planes, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = Conv2d(planes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = PointwiseConv2d(planes, outputs, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _across(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, ⌈h/s⌉, ⌈w/s⌉)."""
        y = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


Block = type[BasicBlock] | type[Bottleneck]


def _across(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(PointwiseConv2d(inputs, outputs, stride, bias=False), nn.BatchNorm2d(outputs))


def _plain(inputs: int, outputs: int, count: int, stride: int = 1, dilation: int = 1, taps: int = 3) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        step, padding = stride if number == 0 else 1, dilation * (taps // 2)
        layers += [Conv2d(inputs if number == 0 else outputs, outputs, taps, step, padding, dilation, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _draw(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Conv2d | PointwiseConv2d):
            filters = module.weight[0, 0].numel() * module.out_channels
            nn.init.normal_(module.weight, 0, sqrt(2 / filters))


class DRNA(nn.Module):
    """ResNet whose last two stages are dilated instead of strided."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(self, block: Block, blocks: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for stage, (count, stride, dilation) in enumerate(zip(blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)):
            planes, layers = 64 << stage, []
            for number in range(count):
                layers.append(block(inputs, planes, *((stride, (1, 1)) if number == 0 else (1, (dilation,) * 2))))
                inputs = planes * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.fc = nn.Linear(inputs, num_classes)
        _draw(self)

    def features(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, c, ⌈h/8⌉, ⌈w/8⌉)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        return self.fc(self.features(x).mean((2, 3)))


class DRN(nn.Module):
    """C (``plain`` off) or D: eight levels of falling size, then of rising and falling dilation."""

    def __init__(self, block: Block, blocks: tuple[int, ...], num_classes: int, *, plain: bool) -> None:
        super().__init__()
        first, *_ = CHANNELS
        if plain:
            self.layer0 = _plain(3, first, 1, taps=7)
        else:
            self.conv1 = Conv2d(3, first, 7, 1, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(first)
            self.relu = nn.ReLU(inplace=True)
        inputs = first
        strides, dilations = (1, 2, 2, 2, 1, 1, 1, 1), (1, 1, 1, 1, 2, 4, 2, 1)
        for level, (planes, count, stride, dilation) in enumerate(
            zip(CHANNELS, blocks, strides, dilations, strict=True), 1
        ):
            edge = level in {1, 2, 7, 8}  # which D makes of plain convolutions, and C of blocks of two
            if edge and plain:
                made = _plain(inputs, planes, count, stride, dilation)
                inputs = planes
            else:
                made, inputs = self._level(
                    BasicBlock if edge else block, inputs, planes, count, stride, dilation, level
                )
            self.add_module(f"layer{level}", made)
        self.fc = Conv2d(inputs, num_classes, 1)
        _draw(self)

    @staticmethod
    def _level(
        block: Block, inputs: int, planes: int, count: int, stride: int, dilation: int, level: int
    ) -> tuple[nn.Sequential, int]:
        layers: list[nn.Module] = []
        words = {"shortcut": False} if level >= 7 else {}
        for number in range(count):
            layers.append(block(inputs, planes, stride if number == 0 else 1, (dilation, dilation), **words))
            inputs = planes * block.expansion
        return nn.Sequential(*layers), inputs

    def features(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, c, ⌈h/8⌉, ⌈w/8⌉)."""
        x = self.layer0(x) if hasattr(self, "layer0") else self.relu(self.bn1(self.conv1(x)))
        for level in range(1, 9):
            x = getattr(self, f"layer{level}")(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        return self.fc(self.features(x).mean((2, 3), keepdim=True)).flatten(1)


SHALLOW, DEEP = (1, 1, 2, 2, 2, 2, 1, 1), (1, 1, 3, 4, 6, 3, 1, 1)


def drn_a_50(num_classes: int = 1000) -> DRNA:
    """DRN-A-50: ResNet-50's parameters, 25,557,032 with 1000 classes."""
    return DRNA(Bottleneck, (3, 4, 6, 3), num_classes)


def drn_c_26(num_classes: int = 1000) -> DRN:
    """DRN-C-26, of basic blocks: 21,126,584 parameters with 1000 classes."""
    return DRN(BasicBlock, SHALLOW, num_classes, plain=False)


def drn_c_42(num_classes: int = 1000) -> DRN:
    """DRN-C-42, of basic blocks: 31,234,744 parameters with 1000 classes."""
    return DRN(BasicBlock, DEEP, num_classes, plain=False)


def drn_d_22(num_classes: int = 1000) -> DRN:
    """DRN-D-22, of basic blocks: 16,393,752 parameters with 1000 classes."""
    return DRN(BasicBlock, SHALLOW, num_classes, plain=True)


def drn_d_38(num_classes: int = 1000) -> DRN:
    """DRN-D-38, of basic blocks: 26,501,912 parameters with 1000 classes."""
    return DRN(BasicBlock, DEEP, num_classes, plain=True)


def drn_d_54(num_classes: int = 1000) -> DRN:
    """DRN-D-54, of bottlenecks: 35,809,176 parameters with 1000 classes."""
    return DRN(Bottleneck, DEEP, num_classes, plain=True)
