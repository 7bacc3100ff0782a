# SPDX-License-Identifier: Apache-2.0
"""Groups of two, four and eight channels in channels last, whose images are computed in tiles of several rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omniconv import functional
from tolerance import assert_close


def formula(x, weight, bias, grad, pads):
    """The output, and the gradients of input and weight."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    flat = [amount for pair in reversed(pads) for amount in pair]
    found = F.conv2d(F.pad(x, flat), weight, bias, groups=x.shape[1] // weight.shape[1])
    return found, *torch.autograd.grad(found, (x, weight), grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(12, 14), (13, 5), (17, 19), (30, 2), (25, 33)], ids=str)
@pytest.mark.parametrize(("channels", "each"), [(64, 2), (72, 4), (64, 8), (72, 8), (136, 8), (256, 8)])
def test_groups_in_tiles(channels, each, size, dtype):
    for pads in (((1, 1), (1, 1)), ((0, 2), (2, 0)), ((0, 0), (1, 1))):
        x = torch.randn(2, channels, *size).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight, bias = torch.randn(channels, each, 3, 3).to(dtype).requires_grad_(), torch.randn(channels).to(dtype)
        found = functional.conv2d(x, weight, bias, padding=pads, groups=channels // each)
        grad = torch.randn(found.shape).to(dtype).contiguous(memory_format=torch.channels_last)
        ours = found, *torch.autograd.grad(found, (x, weight), grad)
        wide = [tensor.detach().double() for tensor in (x, weight, bias, grad)]
        exact, terms = formula(*wide, pads), formula(*(tensor.abs() for tensor in wide), pads)
        for one, right, size_of in zip(ours, exact, terms, strict=True):
            assert_close(one, right, terms=size_of)
