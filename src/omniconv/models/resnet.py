# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 and ResNeXt-50 32×4d, with strides that may become dilations; named as torchvision's.

He et al., Deep Residual Learning, 2015 (the stride on the 3×3 convolution, as Goyal et al., 2017); Xie et al.,
Aggregated Residual Transformations, 2016; dilated stages: Yu & Koltun, 2015, Chen et al., 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from omniconv.nn import Conv2d, PointwiseConv2d

from .drawing import draw_for_relu

Middle = Callable[..., nn.Module]  # makes the 3×3 convolution of a block, from Conv2d's arguments
EXPANSION = 4


class Bottleneck(nn.Module):
    """1×1 to fewer channels, 3×3, 1×1 back to more; the input is added."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, dilation: int, groups: int, middle: Middle
    ) -> None:
        super().__init__()
        self.conv1 = PointwiseConv2d(inputs, width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = middle(width, width, 3, stride, dilation, dilation, groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = PointwiseConv2d(width, outputs, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            across = PointwiseConv2d(inputs, outputs, stride, bias=False)
            self.downsample = nn.Sequential(across, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, ⌈h/s⌉, ⌈w/s⌉)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A stem and four stages of bottlenecks; ``fc`` is left out where there are no classes."""

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        num_classes: int | None,
        output_stride: int,
        groups: int = 1,
        group_width: int = 64,
        middle: tuple[Middle, Middle, Middle, Middle] = (Conv2d,) * 4,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise ValueError(f"`output_stride` (={output_stride}) must be 8, 16 or 32.")
        self.conv1 = Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs, reached, dilation = 64, 4, 1
        for stage, (count, makes) in enumerate(zip(blocks, middle, strict=True)):
            planes, wanted = 64 << stage, 1 if stage == 0 else 2
            stride = wanted if reached * wanted <= output_stride else 1
            reached *= stride
            layers: list[nn.Module] = []
            for number in range(count):
                # The first block of a stage reads what the stage before it was dilated for
                own = dilation if number == 0 else dilation * wanted // stride
                width = planes * group_width // 64 * groups
                outputs = EXPANSION * planes
                layers.append(Bottleneck(inputs, width, outputs, stride if number == 0 else 1, own, groups, makes))
                inputs = outputs
            dilation = dilation * wanted // stride
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1) if num_classes is not None else None
        self.fc = nn.Linear(inputs, num_classes) if num_classes is not None else None
        draw_for_relu(self)

    def stages(self, x: Tensor) -> list[Tensor]:
        """What each of the four stages computes."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        x = self.stages(x)[-1]
        if self.fc is None or self.avgpool is None:
            return x
        return self.fc(self.avgpool(x).flatten(1))


def resnet50(num_classes: int | None = 1000, output_stride: int = 32) -> ResNet:
    """ResNet-50: 25,557,032 parameters and 4.09 G multiply-adds at 224×224 with 1000 classes."""
    return ResNet((3, 4, 6, 3), num_classes, output_stride)


def resnext50_32x4d(num_classes: int | None = 1000, output_stride: int = 32) -> ResNet:
    """ResNeXt-50, 32 groups of 4 channels in its first stage: 25,028,904 parameters."""
    return ResNet((3, 4, 6, 3), num_classes, output_stride, groups=32, group_width=4)


def backbone(**options: Any) -> ResNet:
    """ResNet-50 without its classifier, for the heads of other files."""
    return ResNet((3, 4, 6, 3), None, **options)
