# SPDX-License-Identifier: Apache-2.0
"""The library's own layers are seen as the convolutions they are, not as the operators that compute them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omniconv import functional as OF
from omniconv import nn as onn
from omniconv.analysis.field.receptive_field import receptive_field

SHAPES = {1: (1, 8, 32), 2: (1, 8, 32, 32), 3: (1, 8, 16, 16, 16)}


class Call(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


CASES = {
    "standard": (2, onn.Conv2d(8, 4, 3, 2, 1), "3×3, stride 2, start -1"),
    "per side": (
        2,
        Call(lambda x: OF.conv2d(x, torch.ones(4, 8, 3, 3), None, 2, ((1, 0), (2, 1)), 2)),
        "5×5, stride 2, start -1×-2",
    ),
    "tf_same": (
        2,
        Call(lambda x: OF.conv2d(x, torch.ones(4, 8, 3, 3), stride=2, padding="tf_same")),
        "3×3, stride 2, start 0",
    ),
    "causal": (
        1,
        Call(lambda x: OF.conv1d(x, torch.ones(4, 8, 3), padding="causal", dilation=4)),
        "9, stride 1, start -8",
    ),
    "depthwise": (3, onn.DepthwiseConv3d(8, 3, padding=1), "3×3×3, stride 1, start -1"),
    "circular": (2, onn.Conv2d(8, 4, 3, 1, 1, padding_mode="circular"), "3×3, stride 1, start -1"),
    "transposed": (2, onn.ConvTranspose2d(8, 4, 4, 2, 1), "2×2, stride 1/2, start -1"),
    "spatially separable": (2, onn.SpatialSeparableConv2d(8, 4, 5, stride=2, padding=2), "5×5, stride 2, start -2"),
    "depthwise separable": (2, onn.DepthwiseSeparableConv2d(8, 4, 3, padding=2, dilation=2), "5×5, stride 1, start -2"),
    "lightweight": (1, Call(lambda x: OF.lightweight_conv1d(x, torch.ones(4, 7))), "7, stride 1, start -3"),
    "dynamic": (
        1,
        Call(lambda x, w: OF.dynamic_conv1d(x, w(x).view(1, 2, 5, 32)), nn.Conv1d(8, 10, 9, padding=4)),
        "9, stride 1, start -4",
    ),
    "stacked": (
        2,
        nn.Sequential(onn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), onn.Conv2d(8, 4, 3)),
        "8×8, stride 2, start -1",
    ),
}


@pytest.mark.parametrize(("dim", "model", "expected"), CASES.values(), ids=CASES)
def test_family(dim, model, expected):
    found = receptive_field(model, SHAPES[dim])
    assert str(found) == expected
    assert len(found.notes) == (model.padding_mode == "circular" if isinstance(model, onn.Conv2d) else 0)


def test_without_a_batch():
    model = Call(lambda x: OF.conv2d(x, torch.ones(4, 8, 3, 5), padding=1))
    assert str(receptive_field(model, (8, 16, 16), axes=(1, 2))) == "3×5, stride 1, start -1"


def test_deformable_says_that_it_is_unbounded():
    def forward(x, offsets):
        return OF.deform_conv2d(x, offsets(x), torch.ones(4, 8, 3, 3), padding=1)

    found = receptive_field(Call(forward, nn.Conv2d(8, 18, 7, padding=3)), SHAPES[2])
    assert found.unbounded == (True, True)
    assert str(found) == "unbounded (7×7 without offsets), stride 1, start -3"
    assert any(note.startswith("`deformable`: ") for note in found.notes)
    constant = Call(lambda x: OF.deform_conv2d(x, torch.zeros(1, 18, 32, 32), torch.ones(4, 8, 3, 3), padding=1))
    assert receptive_field(constant, SHAPES[2]).size == (3, 3)


def test_one_kernel_for_a_whole_sequence_is_global():
    def forward(x, w):
        return OF.dynamic_conv1d(x, w(x.mean(2, keepdim=True)).view(1, 2, 5, 1).expand(1, 2, 5, 32))

    found = receptive_field(Call(forward, nn.Conv1d(8, 10, 1)), SHAPES[1])
    assert (found.is_global, found.size) == ((True,), (5,))
