# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 whose last three stages sample where they learned to.

Dai et al., Deformable Convolutional Networks, 2017; Zhu et al., Deformable ConvNets v2, 2019. Each 3×3 convolution of
stages 3 to 5 (``layer2`` to ``layer4``) is deformable, with a head of its own for offsets and masks, which start at
zero and a half (``mask_scale`` 2 makes that one), so that the network starts as ResNet-50.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from omniconv.nn import Conv2d, DeformableConv2d

from .resnet import ResNet


def _modulated(*arguments: Any, **words: Any) -> nn.Module:
    return DeformableConv2d(*arguments, mask=True, mask_scale=2.0, **words)


def deformable_resnet50(num_classes: int | None = 1000, output_stride: int = 32) -> ResNet:
    """Deformable ResNet-50 (v2)."""
    middle = (Conv2d, _modulated, _modulated, _modulated)
    return ResNet((3, 4, 6, 3), num_classes, output_stride, middle=middle)
