# SPDX-License-Identifier: Apache-2.0
"""Kernels of several rows of taps, whose sums are unrolled for rows of 3, 5 and 7, and of other lengths."""

from __future__ import annotations

import pytest
import torch

import omniconv.functional as OF
from families.heads import whole
from tolerance import assert_equal

# Fewer outputs than are summed at once, as many, and more; of one to four vectors of channels, and of several turns
WIDTHS = (1, 3, 6, 7, 10, 14, 15, 29)
CHANNELS = (8, 16, 20, 40, 64, 100)


def kernels(heads, taps, size, lie):
    """Numbers of (2, heads, *taps, *size): in order, with the taps of a position side by side, or with gaps."""
    if lie == "in order":
        return whole(2, heads, *taps, *size)
    if lie == "taps inner":
        return whole(2, heads, *size, *taps).permute(0, 1, 4, 5, 2, 3)
    return whole(2, heads, *taps, *(2 * s for s in size))[..., ::2, ::2]


@pytest.mark.parametrize("inner", [False, True], ids=["in order", "channels last"])
@pytest.mark.parametrize("lie", ["in order", "taps inner", "gaps"])
@pytest.mark.parametrize("length", [2, 3, 4, 5, 7, 9])
def test_rows_of_taps(length, lie, inner):
    form = torch.channels_last if inner else torch.contiguous_format
    for width in WIDTHS:
        for channels in CHANNELS:
            x = whole(2, 2 * channels, 5, width).float().contiguous(memory_format=form)
            weight = kernels(2, (3, length), (5, width + 1 - length % 2), lie).float()
            numbers = {"padding": (1, length // 2), "softmax": False}
            tensors = [t.detach().requires_grad_() for t in (x, weight)]
            exact = [t.detach().double().requires_grad_() for t in (x, weight)]
            found, want = (OF.dynamic_conv2d(*of, **numbers) for of in (tensors, exact))
            assert_equal(found.double(), want)
            grad = whole(*want.shape).contiguous(memory_format=form)
            gradients = (torch.autograd.grad(of, to, grad.to(of)) for of, to in ((found, tensors), (want, exact)))
            for one, other in zip(*gradients, strict=True):
                assert_equal(one.double(), other)
