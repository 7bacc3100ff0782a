# SPDX-License-Identifier: Apache-2.0
"""The exact cost of one layer, whoever wrote it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import omniconv
from omniconv.core.family import families, family_of
from omniconv.core.problem import ConvProblem


def test_the_figures_of_a_layer():
    found = omniconv.cost(nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False), (1, 16, 8, 8))
    assert (found.params, found.macs, found.bias_adds) == (2048, 131_072, 0)
    assert found.status == "complete"
    assert [step.macs.symbols for step in found.steps] == ["N·I·C·O/G·K"]
    assert any("115,200" in note for note in found.notes)


def test_ours_and_torchs_cost_the_same():
    ours, theirs = omniconv.nn.Conv2d(8, 12, 3, 2, 1, groups=4), nn.Conv2d(8, 12, 3, 2, 1, groups=4)
    x = torch.randn(3, 8, 9, 10)
    assert omniconv.cost(ours, x) == omniconv.cost(theirs, x)
    assert omniconv.cost(ours, x).bytes() == 4 * (x.numel() + 12 * 18 + 12 + 3 * 12 * 25)
    assert omniconv.cost(ours, x).bytes(2) * 2 == omniconv.cost(ours, x).bytes()
    assert omniconv.cost(ours, x).intensity() == pytest.approx(omniconv.cost(ours, x).intensity(2) / 2)


def test_a_model_is_the_sum_of_its_layers():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(144, 5)]
    whole, x = omniconv.cost(nn.Sequential(*layers), (2, 3, 8, 8)), torch.randn(2, 3, 8, 8)
    total = {"macs": 0, "params": 0, "bias_adds": 0, "other_ops": 0, "flops": 0}
    for layer in layers:
        part = omniconv.cost(layer, x)
        total = {name: value + getattr(part, name) for name, value in total.items()}
        x = layer(x)
    assert total == {name: getattr(whole, name) for name in total}
    assert whole.other_ops == 2 * 8 * 36
    rows = omniconv.profile(nn.Sequential(*layers), (2, 3, 8, 8)).rows
    assert whole.flops == sum(row.flops for row in rows)
    assert whole.intensity() == whole.flops / sum(row.bytes for row in rows)


def test_elements_have_the_size_of_the_numbers_and_not_of_the_indices():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.conv = nn.Embedding(10, 4), nn.Conv1d(4, 4, 3)

        def forward(self, x):
            return self.conv(self.table(x).transpose(1, 2))

    found = omniconv.cost(Words(), torch.zeros(1, 9, dtype=torch.long))
    assert found.itemsize == 4
    assert found.bytes(4) == found.bytes()
    assert found.bytes(2) * 2 == found.bytes()
    assert omniconv.cost(nn.LazyConv1d(4, 3, dtype=torch.float64), torch.zeros(1, 4, 9).double()).itemsize == 8


@pytest.mark.parametrize("name", [f"{f.name}/{case}" for f in families().values() for case in f.cases])
def test_a_profile_adds_nothing_to_a_families_own_cost(name):
    """Each shared case, called by its plan: what a profile sees is what the family says, in one row."""
    from omniconv.core.register import Plan

    family, _, case = name.partition("/")
    problem = ConvProblem.parse(families()[family].cases[case])
    shapes = families()[family].tensors(problem)

    class Call(nn.Module):
        def forward(self, **tensors):
            return Plan(problem)(*(tensors.get(key) for key in shapes))

    tensors = {key: torch.ones(shape) for key, shape in shapes.items() if shape is not None}
    found, own = omniconv.cost(Call(), tensors), family_of(problem).cost(problem)
    for figure in ("macs", "bias_adds", "sampling", "exponentials"):
        assert getattr(found, figure) == getattr(own, figure), figure
    assert found.bytes() == own.bytes(4)
    assert found.parts == (own,)
    assert found.other_ops == 0


def test_refuses():
    with pytest.raises(TypeError, match="`model`"):
        omniconv.cost("conv", (1, 3, 8, 8))
    with pytest.raises(TypeError, match="`input`"):
        omniconv.cost(nn.Conv2d(3, 4, 3), 8)
