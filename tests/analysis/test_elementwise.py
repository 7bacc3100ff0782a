# SPDX-License-Identifier: Apache-2.0
"""Work that is no product, in operations: the table of the module, case by case."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import omniconv
from omniconv.analysis.profiling import elementwise


class Run(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, x):
        return self.run(x)


N = 2 * 4 * 6 * 6  # elements of the input, (2, 4, 6, 6)

CASES = {
    "relu": (F.relu, N),
    "relu in place": (lambda x: F.relu_(x.clone()), N),
    "gelu": (F.gelu, N),
    "hardswish": (F.hardswish, N),
    "prelu": (lambda x: F.prelu(x, torch.ones(4)), N),
    "add, broadcast": (lambda x: x[:, :1] + x, N),
    "glu": (lambda x: F.glu(x, 1), N),
    "sum": (lambda x: x.sum(), N),
    "mean of an axis": (lambda x: x.mean(-1), N),
    "maximum": (lambda x: x.amax((2, 3)), N),
    "variance": (lambda x: x.var(1), 4 * N),
    "softmax": (lambda x: x.softmax(1), 5 * N),
    "layer norm": (lambda x: F.layer_norm(x, (6,)), 6 * N),
    "layer norm, affine": (lambda x: F.layer_norm(x, (6,), torch.ones(6), torch.zeros(6)), 8 * N),
    "group norm": (lambda x: F.group_norm(x, 2), 6 * N),
    "batch norm, stored": (lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), torch.ones(4)), 2 * N),
    "batch norm, from data": (
        lambda x: F.batch_norm(x, None, None, torch.ones(4), torch.ones(4), training=True),
        8 * N,
    ),
    "max pool": (lambda x: F.max_pool2d(x, 3, 1), 2 * 4 * 16 * 9),
    "average pool": (lambda x: F.avg_pool2d(x, (3, 2), 3), 2 * 4 * 4 * 6),
    "average pool, 1-D": (lambda x: F.avg_pool1d(x[0], 2), 4 * 6 * 3 * 2),
    "max pool, 3-D": (lambda x: F.max_pool3d(x, 2), 2 * 2 * 3 * 3 * 8),
    "adaptive pool that divides": (lambda x: F.adaptive_avg_pool2d(x, 3), N),
    "adaptive pool that overlaps": (lambda x: F.adaptive_avg_pool2d(x, (4, 1)), 2 * 4 * 8 * 6),
    "adaptive max pool": (lambda x: F.adaptive_max_pool2d(x, 2), N),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), 0),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 8 * 4 * N),
    "bicubic": (lambda x: F.interpolate(x, size=3, mode="bicubic"), 32 * N // 4),
    "bilinear, antialiased": (
        lambda x: F.interpolate(x, size=3, mode="bilinear", antialias=True),
        2 * 16 * N // 4,
    ),
    "grid sampling": (lambda x: F.grid_sample(x, x.new_zeros(2, 3, 3, 2), align_corners=False), 8 * 2 * 4 * 9),
    "nearest grid sampling": (
        lambda x: F.grid_sample(x, x.new_zeros(2, 3, 3, 2), mode="nearest", align_corners=False),
        0,
    ),
    "mean squared error": (lambda x: F.mse_loss(x, torch.ones(2, 4, 6, 6)), 3 * N),
    "dropout in evaluation": (lambda x: F.dropout(x, training=False), 0),
    "fold": (lambda x: F.fold(x.flatten(1, 2)[:, :16, :1], 4, 4), 32),
    "index add": (lambda x: torch.zeros(4, 6).index_add(0, torch.tensor([0, 1]), x[0, 0, :2]), 12),
    "embedding bag": (lambda x: F.embedding_bag(torch.tensor([[0, 1, 2]]), torch.ones(5, 7)), 21),
    "distances": (lambda x: torch.cdist(x[0, 0], x[0, 1], p=1.0), 3 * 36 * 6),
    "sort": (lambda x: x.sort(-1).values, N),
    "moving": (
        lambda x: torch.cat([F.pad(x, (1, 1)).flip(0)[..., 1:-1].contiguous(), x]).permute(1, 0, 2, 3).clone(),
        0,
    ),
    "reading a number": (lambda x: x[0, 0, 0, 0].item() and x, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_operations(name):
    run, expected = CASES[name]
    found = omniconv.profile(Run(run), (2, 4, 6, 6), receptive_field=False)
    assert found.other_ops == expected
    assert found.macs == 0
    assert found.status == "complete"


def test_every_name_is_an_operator():
    names = elementwise._MOVES | elementwise._RULES.keys()
    known = {
        name.removeprefix("aten::").partition(".")[0].removesuffix("_")
        for name in torch._C._dispatch_get_all_op_names()
    }
    assert sorted(names - known) == []


def test_no_rule_names_what_only_moves():
    assert elementwise._MOVES.isdisjoint(elementwise._RULES)
