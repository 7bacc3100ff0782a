# SPDX-License-Identifier: Apache-2.0
"""ATen's convolutions in float16 with the long kernels per channel that oneDNN never finishes: forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omniconv.core.convolve import convolve, convolve_transposed
from tolerance import assert_close

BOTH = pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x, w, b: convolve(x, w, b, 2, 7, 1, 8), lambda x, w, b: F.conv1d(x, w, b, 2, 7, 1, 8)),
        (
            lambda x, w, b: convolve_transposed(x, w, b, 2, 7, 1, 1, 8),
            lambda x, w, b: F.conv_transpose1d(x, w, b, 2, 7, 1, 8, 1),
        ),
    ],
    ids=["gather", "transposed"],
)


@BOTH
@pytest.mark.parametrize("taps", [3, 14, 15, 31])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients(ours, theirs, taps, bias):
    shapes = [(2, 8, 40), (8, 1, taps), (8,)][: 2 + bias]
    low = [torch.randn(shape).half().requires_grad_() for shape in shapes]
    wide = [t.detach().double().requires_grad_() for t in low]
    got, want = (call(*given, *[None] * (not bias)) for call, given in ((ours, low), (theirs, wide)))
    with torch.no_grad():
        terms = theirs(*(t.abs() for t in wide), *[None] * (not bias))
    assert got.dtype == torch.float16
    assert_close(got, want, terms=terms)
    into = torch.ones_like(got)
    for mine, other in zip(
        torch.autograd.grad(got, low, into), torch.autograd.grad(want, wide, into.double()), strict=True
    ):
        assert mine.dtype == torch.float16
        assert_close(mine, other)


@BOTH
def test_under_autocast(ours, theirs):
    x, weight = torch.randn(1, 8, 40), torch.randn(8, 1, 31)
    with torch.autocast("cpu", torch.float16):
        got = ours(x, weight, None)
    want = theirs(x.half().double(), weight.half().double(), None)
    terms = theirs(x.half().double().abs(), weight.half().double().abs(), None)
    assert got.dtype == torch.float16
    assert_close(got, want, terms=terms)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x.half(), weight.half(), None).dtype == torch.bfloat16
