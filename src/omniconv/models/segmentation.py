# SPDX-License-Identifier: Apache-2.0
"""FCN and DeepLabV3 on a dilated ResNet-50; named as torchvision's. Maps have the size of the input.

Long, Shelhamer & Darrell, Fully Convolutional Networks, 2015; Chen et al., Rethinking Atrous Convolution, 2017.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniconv.nn import Conv2d, PointwiseConv2d

from .resnet import backbone

RATES = {8: (12, 24, 36), 16: (6, 12, 18)}  # the paper's, by output stride


def _activated(conv: nn.Module, channels: int) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(channels), nn.ReLU()]


def fcn_head(inputs: int, num_classes: int) -> nn.Sequential:
    """3×3 to a quarter of the channels, and a score of each class."""
    width = inputs // 4
    convolved = _activated(Conv2d(inputs, width, 3, 1, 1, bias=False), width)
    return nn.Sequential(*convolved, nn.Dropout(0.1), PointwiseConv2d(width, num_classes))


class Pooled(nn.Sequential):
    """The mean of each channel, convolved, at every position."""

    def __init__(self, inputs: int, outputs: int) -> None:
        across = PointwiseConv2d(inputs, outputs, bias=False)
        super().__init__(nn.AdaptiveAvgPool2d(1), *_activated(across, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, h, w)."""
        return super().forward(x).expand(-1, -1, *x.shape[2:])


class ASPP(nn.Module):
    """Side by side: 1×1, 3×3 at three dilations, and the mean; then 1×1 over all of them."""

    def __init__(self, inputs: int, rates: tuple[int, ...], outputs: int = 256) -> None:
        super().__init__()
        branches = [nn.Sequential(*_activated(PointwiseConv2d(inputs, outputs, bias=False), outputs))]
        for rate in rates:
            dilated = Conv2d(inputs, outputs, 3, 1, rate, rate, bias=False)
            branches.append(nn.Sequential(*_activated(dilated, outputs)))
        self.convs = nn.ModuleList([*branches, Pooled(inputs, outputs)])
        across = PointwiseConv2d(len(self.convs) * outputs, outputs, bias=False)
        self.project = nn.Sequential(*_activated(across, outputs), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to (n, o, h, w)."""
        return self.project(torch.cat([branch(x) for branch in self.convs], 1))


def deeplab_head(inputs: int, num_classes: int, rates: tuple[int, ...]) -> nn.Sequential:
    """ASPP, 3×3, and a score of each class."""
    convolved = _activated(Conv2d(256, 256, 3, 1, 1, bias=False), 256)
    return nn.Sequential(ASPP(inputs, rates), *convolved, PointwiseConv2d(256, num_classes))


class Segmenter(nn.Module):
    """A backbone, a head on its last stage, and perhaps another on the stage before, to train with."""

    def __init__(self, classifier: nn.Module, num_classes: int, output_stride: int, *, aux: bool) -> None:
        super().__init__()
        self.backbone = backbone(output_stride=output_stride)
        self.classifier = classifier
        self.aux_classifier = fcn_head(1024, num_classes) if aux else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(n, 3, h, w) to (n, num_classes, h, w); with ``aux``, in training, to two of these."""
        *_, before, last = self.backbone.stages(x)
        found = self._resized(self.classifier(last), x)
        if self.aux_classifier is None or not self.training:
            return found
        return found, self._resized(self.aux_classifier(before), x)

    @staticmethod
    def _resized(scores: Tensor, x: Tensor) -> Tensor:
        return F.interpolate(scores, x.shape[2:], mode="bilinear", align_corners=False)


def fcn_resnet50(num_classes: int = 21, output_stride: int = 8, *, aux: bool = False) -> Segmenter:
    """FCN on ResNet-50: 32,957,013 parameters with 21 classes, 35,322,218 with ``aux``."""
    return Segmenter(fcn_head(2048, num_classes), num_classes, output_stride, aux=aux)


def deeplabv3_resnet50(num_classes: int = 21, output_stride: int = 8, *, aux: bool = False) -> Segmenter:
    """DeepLabV3 on ResNet-50: 39,638,869 parameters with 21 classes, 42,004,074 with ``aux``."""
    if output_stride not in RATES:
        raise ValueError(f"`output_stride` (={output_stride}) must be 8 or 16.")
    head = deeplab_head(2048, num_classes, RATES[output_stride])
    return Segmenter(head, num_classes, output_stride, aux=aux)
