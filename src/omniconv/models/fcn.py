# SPDX-License-Identifier: Apache-2.0
"""FCN-32s and FCN-8s on VGG-16: a classifier turned convolutional, and scores added up at three sizes.

Long, Shelhamer & Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015; Simonyan & Zisserman, 2014.
Named as wkentaro/pytorch-fcn: ``conv1_1`` … ``fc7``, ``score_fr``, ``score_pool4``, ``upscore2``, ….
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omniconv.nn import Conv2d, ConvTranspose2d, PointwiseConv2d

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
PADDING = 100  # of the first convolution, so that a kernel of 7×7 fits what is left of any image


def bilinear(channels: int, taps: int) -> Tensor:
    """A transposed convolution's weight that resizes each channel by itself, linearly between positions."""
    at = torch.arange(taps, dtype=torch.float64)
    factor = (taps + 1) // 2
    center = factor - 1 if taps % 2 else factor - 0.5
    row = 1 - (at - center).abs() / factor
    weight = torch.zeros(channels, channels, taps, taps)
    weight[range(channels), range(channels)] = torch.outer(row, row).float()
    return weight


class FCN(nn.Module):
    """VGG-16 whose linear maps are convolutions, and scores at strides of 32 and, where ``fine``, 16 and 8."""

    def __init__(self, num_classes: int, *, fine: bool) -> None:
        super().__init__()
        inputs = 3
        for stage, (width, count) in enumerate(STAGES, 1):
            for number in range(1, count + 1):
                padding = PADDING if stage == number == 1 else 1
                self.add_module(f"conv{stage}_{number}", Conv2d(inputs, width, 3, 1, padding))
                inputs = width
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout2d()
        self.fc6 = Conv2d(512, 4096, 7)
        self.fc7 = PointwiseConv2d(4096, 4096)
        self.score_fr = PointwiseConv2d(4096, num_classes)
        self.fine = fine
        if fine:
            self.score_pool3 = PointwiseConv2d(256, num_classes)
            self.score_pool4 = PointwiseConv2d(512, num_classes)
            self.upscore2 = ConvTranspose2d(num_classes, num_classes, 4, 2, bias=False)
            self.upscore8 = ConvTranspose2d(num_classes, num_classes, 16, 8, bias=False)
            self.upscore_pool4 = ConvTranspose2d(num_classes, num_classes, 4, 2, bias=False)
        else:
            self.upscore = ConvTranspose2d(num_classes, num_classes, 64, 32, bias=False)
        self._draw()

    def _draw(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, ConvTranspose2d):
                with torch.no_grad():
                    module.weight.copy_(bilinear(module.out_channels, module.kernel_size[0]))
            elif name.startswith("score"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, Conv2d | PointwiseConv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes, h, w)."""
        height, width = x.shape[2:]
        pools = []
        y = x
        for stage, (_, count) in enumerate(STAGES, 1):
            for number in range(1, count + 1):
                y = self.relu(getattr(self, f"conv{stage}_{number}")(y))
            y = self.pool(y)
            pools.append(y)
        y = self.drop(self.relu(self.fc6(y)))
        scores = self.score_fr(self.drop(self.relu(self.fc7(y))))
        if not self.fine:
            return _cropped(self.upscore(scores), 19, height, width)
        scores = self.upscore2(scores)
        scores = scores + _cropped(self.score_pool4(pools[3]), 5, *scores.shape[2:])
        scores = self.upscore_pool4(scores)
        scores = scores + _cropped(self.score_pool3(pools[2]), 9, *scores.shape[2:])
        return _cropped(self.upscore8(scores), 31, height, width)


def _cropped(scores: Tensor, first: int, height: int, width: int) -> Tensor:
    return scores[..., first : first + height, first : first + width].contiguous()


def fcn32s(num_classes: int = 21) -> FCN:
    """FCN-32s: one score, enlarged 32 times."""
    return FCN(num_classes, fine=False)


def fcn8s(num_classes: int = 21) -> FCN:
    """FCN-8s: scores at strides of 32, 16 and 8, added up."""
    return FCN(num_classes, fine=True)
