# SPDX-License-Identifier: Apache-2.0
"""RepLKNet-31B: depthwise kernels of 31×31 beside small ones; named as DingXiaoH/RepLKNet-pytorch.

Ding et al., Scaling Up Your Kernels to 31x31, 2022. In inference the small kernel is part of the large one: add it to
the middle after folding both norms (``merged``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniconv.nn import Conv2d, DepthwiseConv2d, PointwiseConv2d

from .dropped import Dropped

TAPS, BLOCKS, CHANNELS, SMALL = (31, 29, 27, 13), (2, 2, 18, 2), (128, 256, 512, 1024), 5


def _with_norm(conv: nn.Module, channels: int, *, activated: bool = False) -> nn.Sequential:
    parts = [("conv", conv), ("bn", nn.BatchNorm2d(channels))]
    return nn.Sequential(OrderedDict([*parts, *([("nonlinear", nn.ReLU())] if activated else [])]))


def _across(inputs: int, outputs: int, *, activated: bool = False) -> nn.Sequential:
    return _with_norm(PointwiseConv2d(inputs, outputs, bias=False), outputs, activated=activated)


def _each(channels: int, taps: int, stride: int = 1, *, activated: bool = False) -> nn.Sequential:
    conv = DepthwiseConv2d(channels, taps, stride, taps // 2, bias=False)
    return _with_norm(conv, channels, activated=activated)


class LargeKernel(nn.Module):
    """A large and a small depthwise kernel, each with a norm, added up."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.lkb_origin = _each(channels, taps)
        self.small_conv = _each(channels, SMALL)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        return self.lkb_origin(x) + self.small_conv(x)

    def merged(self) -> DepthwiseConv2d:
        """The one convolution that both are in ``eval``: a copy of their weights, with a bias."""
        large, small = (_folded(part) for part in (self.lkb_origin, self.small_conv))
        margin = (large[0].shape[-1] - SMALL) // 2
        conv: Any = self.lkb_origin.conv
        layer = DepthwiseConv2d(conv.in_channels, conv.kernel_size, padding=conv.padding, bias=True).to(large[0].dtype)
        with torch.no_grad():
            layer.weight.copy_(large[0] + F.pad(small[0], (margin,) * 4))
            layer.bias = nn.Parameter(large[1] + small[1])
        return layer


def _folded(part: nn.Sequential) -> tuple[Tensor, Tensor]:
    conv, norm = (getattr(part, name) for name in ("conv", "bn"))
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


class Block(nn.Module):
    """Norm, 1×1, large kernel, 1×1; the input is added."""

    def __init__(self, channels: int, taps: int, left_out: float) -> None:
        super().__init__()
        self.prelkb_bn = nn.BatchNorm2d(channels)
        self.pw1 = _across(channels, channels, activated=True)
        self.large_kernel = LargeKernel(channels, taps)
        self.lk_nonlinear = nn.ReLU()
        self.pw2 = _across(channels, channels)
        self.drop_path = Dropped(left_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        y = self.lk_nonlinear(self.large_kernel(self.pw1(self.prelkb_bn(x))))
        return x + self.drop_path(self.pw2(y))


class FeedForward(nn.Module):
    """Norm, 1×1 to four times as many channels, GELU, 1×1 back; the input is added."""

    def __init__(self, channels: int, left_out: float) -> None:
        super().__init__()
        self.preffn_bn = nn.BatchNorm2d(channels)
        self.pw1 = _across(channels, 4 * channels)
        self.nonlinear = nn.GELU()
        self.pw2 = _across(4 * channels, channels)
        self.drop_path = Dropped(left_out)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        y = self.pw2(self.nonlinear(self.pw1(self.preffn_bn(x))))
        return x + self.drop_path(y)


class Stage(nn.Module):
    """Blocks of large kernels and of linear maps in turn."""

    def __init__(self, channels: int, taps: int, left_out: list[float]) -> None:
        super().__init__()
        pairs = [(Block(channels, taps, share), FeedForward(channels, share)) for share in left_out]
        self.blocks = nn.ModuleList([block for pair in pairs for block in pair])

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        for block in self.blocks:
            x = block(x)
        return x


class RepLKNet(nn.Module):
    """A stem, four stages, and a convolution of stride 2 between them."""

    def __init__(self, num_classes: int, drop_path: float) -> None:
        super().__init__()
        first, last = CHANNELS[0], CHANNELS[-1]
        stem = Conv2d(3, first, 3, 2, 1, bias=False)
        self.stem = nn.ModuleList(
            [
                _with_norm(stem, first, activated=True),
                _each(first, 3, activated=True),
                _across(first, first, activated=True),
                _each(first, 3, 2, activated=True),
            ]
        )
        shares = torch.linspace(0, drop_path, sum(BLOCKS)).tolist()
        stages, transitions = [], []
        for number, (channels, taps, count) in enumerate(zip(CHANNELS, TAPS, BLOCKS, strict=True)):
            at = sum(BLOCKS[:number])
            stages.append(Stage(channels, taps, shares[at : at + count]))
            for wider in CHANNELS[number + 1 : number + 2]:
                between = _across(channels, wider, activated=True), _each(wider, 3, 2, activated=True)
                transitions.append(nn.Sequential(*between))
        self.stages, self.transitions = nn.ModuleList(stages), nn.ModuleList(transitions)
        self.norm = nn.BatchNorm2d(last)
        self.head = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) to (n, num_classes)."""
        for part in self.stem:
            x = part(x)
        for stage, transition in zip(self.stages, [*self.transitions, nn.Identity()], strict=True):
            x = transition(stage(x))
        return self.head(self.norm(x).mean((2, 3)))


def replknet_31b(num_classes: int = 1000, drop_path: float = 0.5) -> RepLKNet:
    """RepLKNet-31B; the paper counts 79 M parameters and 15.3 G multiply-adds at 224×224."""
    return RepLKNet(num_classes, drop_path)
