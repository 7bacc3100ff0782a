# SPDX-License-Identifier: Apache-2.0
"""MobileNetV1 and MobileNetV2. V2 is named as torchvision's; V1, without a reference in PyTorch, by the paper's table.

Howard et al., MobileNets, 2017; Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, 2018.
"""

from __future__ import annotations

from torch import Tensor, nn

from omniconv.nn import Conv2d, DepthwiseConv2d, PointwiseConv2d

from .drawing import draw_for_relu

# Outputs and stride of each depthwise separable block
V1_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
# Times as wide inside, outputs, blocks, stride of the first
V2_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _with_norm(conv: nn.Module, channels: int, activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(channels), activation())


class MobileNetV1(nn.Module):
    """A standard convolution, then thirteen depthwise separable ones."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_with_norm(Conv2d(3, 32, 3, 2, 1, bias=False), 32, nn.ReLU)]
        inputs = 32
        for outputs, stride in V1_BLOCKS:
            spatial = DepthwiseConv2d(inputs, 3, stride, 1, bias=False)
            layers.append(_with_norm(spatial, inputs, nn.ReLU))
            layers.append(_with_norm(PointwiseConv2d(inputs, outputs, bias=False), outputs, nn.ReLU))
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)
        draw_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        return self.classifier(self.features(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    """1×1 to ``times`` as many channels, depthwise 3×3, 1×1 to few; the input is added where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, times: int) -> None:
        super().__init__()
        width = inputs * times
        layers: list[nn.Module] = []
        if times != 1:
            layers.append(_with_norm(PointwiseConv2d(inputs, width, bias=False), width, nn.ReLU6))
        layers.append(_with_norm(DepthwiseConv2d(width, 3, stride, 1, bias=False), width, nn.ReLU6))
        layers += [PointwiseConv2d(width, outputs, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, ⌈h/s⌉, ⌈w/s⌉)."""
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """A standard convolution, seventeen inverted residuals, a pointwise convolution."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [_with_norm(Conv2d(3, 32, 3, 2, 1, bias=False), 32, nn.ReLU6)]
        inputs = 32
        for times, outputs, count, stride in V2_STAGES:
            for number in range(count):
                layers.append(InvertedResidual(inputs, outputs, stride if number == 0 else 1, times))
                inputs = outputs
        layers.append(_with_norm(PointwiseConv2d(inputs, 1280, bias=False), 1280, nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        draw_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        return self.classifier(self.features(x).mean((2, 3)))


def mobilenet_v1(num_classes: int = 1000) -> MobileNetV1:
    """MobileNetV1: 569 M multiply-adds and 4.2 M parameters at 224×224 with 1000 classes, by the paper's table."""
    return MobileNetV1(num_classes)


def mobilenet_v2(num_classes: int = 1000) -> MobileNetV2:
    """MobileNetV2: 300 M multiply-adds and 3,504,872 parameters at 224×224 with 1000 classes."""
    return MobileNetV2(num_classes)
