# SPDX-License-Identifier: Apache-2.0
"""Residual networks of He et al. (2016), written down from their paper; the stride of a bottleneck is in its 3×3."""

from __future__ import annotations

from torch import nn


def conv_norm(c, o, k, stride=1):
    return [nn.Conv2d(c, o, k, stride, k // 2, bias=False), nn.BatchNorm2d(o)]


class Block(nn.Module):
    def __init__(self, c, o, stride, bottleneck):
        super().__init__()
        if bottleneck:
            inner = o // 4
            body = [*conv_norm(c, inner, 1), nn.ReLU(), *conv_norm(inner, inner, 3, stride), nn.ReLU()]
            self.body = nn.Sequential(*body, *conv_norm(inner, o, 1))
        else:
            self.body = nn.Sequential(*conv_norm(c, o, 3, stride), nn.ReLU(), *conv_norm(o, o, 3))
        self.shortcut = nn.Sequential(*conv_norm(c, o, 1, stride)) if stride > 1 or c != o else nn.Identity()

    def forward(self, x):
        return nn.functional.relu(self.body(x) + self.shortcut(x), inplace=True)


def resnet(depths, *, bottleneck):
    """Up to the last map, before global pooling."""
    layers, c = [*conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for stage, depth in enumerate(depths):
        o = 64 * 2**stage * (4 if bottleneck else 1)
        for i in range(depth):
            layers.append(Block(c, o, 2 if stage and i == 0 else 1, bottleneck))
            c = o
    return nn.Sequential(*layers)


def resnet18():
    return resnet((2, 2, 2, 2), bottleneck=False)


def resnet50():
    return resnet((3, 4, 6, 3), bottleneck=True)
