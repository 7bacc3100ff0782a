# SPDX-License-Identifier: Apache-2.0
"""Xception: depthwise separable convolutions with shortcuts; named as in timm's ``legacy_xception``.

Chollet, Xception: Deep Learning with Depthwise Separable Convolutions, 2017.
"""

from __future__ import annotations

from torch import Tensor, nn

from omniconv.nn import Conv2d, DepthwiseConv2d, PointwiseConv2d

from .drawing import draw_for_relu


class SeparableConv2d(nn.Module):
    """Depthwise 3×3, then pointwise, with nothing between."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = DepthwiseConv2d(inputs, 3, 1, 1, bias=False)
        self.pointwise = PointwiseConv2d(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, h, w)."""
        return self.pointwise(self.conv1(x))


class Block(nn.Module):
    """Separable convolutions, each behind a ReLU, and pooling where there is a stride; a shortcut beside them.

    ``widths`` are the outputs of each; ``begins`` says whether the first stands behind a ReLU too.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], stride: int, *, begins: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        outputs, reads = widths[-1], inputs
        for number, width in enumerate(widths):
            layers += [nn.ReLU()] if begins or number else []
            layers += [SeparableConv2d(reads, width), nn.BatchNorm2d(width)]
            reads = width
        layers += [nn.MaxPool2d(3, stride, 1)] if stride != 1 else []
        self.rep = nn.Sequential(*layers)
        self.skip = None
        if inputs != outputs or stride != 1:
            self.skip = PointwiseConv2d(inputs, outputs, stride, bias=False)
            self.skipbn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, ⌈h/s⌉, ⌈w/s⌉)."""
        passed = x if self.skip is None else self.skipbn(self.skip(x))
        return self.rep(x) + passed


class Xception(nn.Module):
    """Two convolutions, twelve blocks, two separable convolutions."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(3, 32, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = Conv2d(32, 64, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.block1 = Block(64, (128, 128), 2, begins=False)
        self.block2 = Block(128, (256, 256), 2)
        self.block3 = Block(256, (728, 728), 2)
        for number in range(4, 12):
            self.add_module(f"block{number}", Block(728, (728,) * 3, 1))
        self.block12 = Block(728, (728, 1024), 2)
        self.conv3 = SeparableConv2d(1024, 1536)
        self.bn3 = nn.BatchNorm2d(1536)
        self.conv4 = SeparableConv2d(1536, 2048)
        self.bn4 = nn.BatchNorm2d(2048)
        self.fc = nn.Linear(2048, num_classes)
        draw_for_relu(self)

    def features(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, 2048, h/32, w/32), about."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        for number in range(1, 13):
            x = getattr(self, f"block{number}")(x)
        x = self.relu(self.bn3(self.conv3(x)))
        return self.relu(self.bn4(self.conv4(x)))

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        return self.fc(self.features(x).mean((2, 3)))


def xception(num_classes: int = 1000) -> Xception:
    """Xception: 22,855,952 parameters and 8.4 G multiply-adds at 299×299 with 1000 classes."""
    return Xception(num_classes)
