# SPDX-License-Identifier: Apache-2.0
"""Published networks, written down from their papers as shortly as counting needs: only sizes matter, not weights."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


def conv_norm_act(c, o, k=3, stride=1, groups=1, act=nn.ReLU6):
    """Convolution without bias, batch norm, and an activation if any."""
    layers = [nn.Conv2d(c, o, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Residual(nn.Module):
    def __init__(self, body, *, shortcut):
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x):
        return x + self.body(x) if self.shortcut else self.body(x)


def classifier(channels, classes=1000):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def mobilenet_v2():
    """Sandler et al., 2018, width 1."""

    def inverted(c, o, stride, expand):
        hidden = c * expand
        widen = [conv_norm_act(c, hidden, 1)] if expand > 1 else []
        body = [*widen, conv_norm_act(hidden, hidden, 3, stride, hidden), conv_norm_act(hidden, o, 1, act=None)]
        return Residual(nn.Sequential(*body), shortcut=stride == 1 and c == o)

    blocks, c = [conv_norm_act(3, 32, 3, 2)], 32
    for expand, o, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(repeats):
            blocks.append(inverted(c, o, stride if i == 0 else 1, expand))
            c = o
    return nn.Sequential(*blocks, conv_norm_act(320, 1280, 1), classifier(1280))


class SqueezeExcite(nn.Module):
    def __init__(self, channels, squeezed):
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x):
        gate = nn.functional.silu(self.reduce(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.expand(gate))


def efficientnet_b0():
    """Tan & Le, 2019."""

    def block(c, o, k, stride, expand):
        hidden = c * expand
        body = [conv_norm_act(c, hidden, 1, act=nn.SiLU)] if expand > 1 else []
        body += [conv_norm_act(hidden, hidden, k, stride, hidden, nn.SiLU), SqueezeExcite(hidden, c // 4)]
        body.append(conv_norm_act(hidden, o, 1, act=None))
        return Residual(nn.Sequential(*body), shortcut=stride == 1 and c == o)

    blocks, c = [conv_norm_act(3, 32, 3, 2, act=nn.SiLU)], 32
    for expand, o, repeats, stride, k in (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ):
        for i in range(repeats):
            blocks.append(block(c, o, k, stride if i == 0 else 1, expand))
            c = o
    return nn.Sequential(*blocks, conv_norm_act(320, 1280, 1, act=nn.SiLU), classifier(1280))


class Shuffle(nn.Module):
    """Half of the channels go through, or both through a branch each; then the halves are interleaved."""

    def __init__(self, c, o, stride):
        super().__init__()
        half, inner = o // 2, c if stride == 2 else c // 2
        self.left = None
        if stride == 2:
            self.left = nn.Sequential(conv_norm_act(c, c, 3, 2, c, None), conv_norm_act(c, half, 1, act=nn.ReLU))
        self.right = nn.Sequential(
            conv_norm_act(inner, half, 1, act=nn.ReLU),
            conv_norm_act(half, half, 3, stride, half, None),
            conv_norm_act(half, half, 1, act=nn.ReLU),
        )

    def forward(self, x):
        left, right = (x, x) if self.left else x.chunk(2, 1)
        both = torch.cat([self.left(left) if self.left else left, self.right(right)], 1)
        return both.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def shufflenet_v2():
    """Ma et al., 2018, width 1."""
    blocks, c = [conv_norm_act(3, 24, 3, 2, act=nn.ReLU), nn.MaxPool2d(3, 2, 1)], 24
    for o, repeats in ((116, 4), (232, 8), (464, 4)):
        for i in range(repeats):
            blocks.append(Shuffle(c, o, 2 if i == 0 else 1))
            c = o
    return nn.Sequential(*blocks, conv_norm_act(464, 1024, 1, act=nn.ReLU), classifier(1024))


class ChannelsLast(nn.Module):
    """Layers that want the channels last, between two permutations."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convnext_tiny():
    """Liu et al., 2022."""

    def block(c):
        mixing = ChannelsLast(nn.LayerNorm(c), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c))
        return Residual(nn.Sequential(nn.Conv2d(c, c, 7, padding=3, groups=c), mixing), shortcut=True)

    layers, c = [nn.Conv2d(3, 96, 4, 4), ChannelsLast(nn.LayerNorm(96))], 96
    for o, repeats in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if o != c:
            layers += [ChannelsLast(nn.LayerNorm(c)), nn.Conv2d(c, o, 2, 2)]
        layers += [block(o) for _ in range(repeats)]
        c = o
    return nn.Sequential(*layers, classifier(768))


def autoencoder():
    """Three strided convolutions down and three transposed ones up."""
    widths = (3, 16, 32, 64)
    down = [nn.Conv2d(c, o, 3, 2, 1) for c, o in pairwise(widths)]
    up = [nn.ConvTranspose2d(c, o, 3, 2, 1, 1) for c, o in pairwise(widths[::-1])]
    return nn.Sequential(*(layer for conv in (*down, *up) for layer in (conv, nn.ReLU())))
