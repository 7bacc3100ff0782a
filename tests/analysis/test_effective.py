# SPDX-License-Identifier: Apache-2.0
"""The effective receptive field: exact where it can be worked out, inside the theoretical one everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omniconv.analysis.field.effective import effective_receptive_field
from omniconv.analysis.field.receptive_field import receptive_field
from tolerance import assert_close


def constant(*layers):
    for layer in layers:
        nn.init.constant_(layer.weight, 1.0)
    return nn.Sequential(*layers).double()


def test_one_box_spreads_its_energy_evenly():
    model = constant(nn.Conv2d(2, 1, (3, 5), bias=False))
    found = effective_receptive_field(model, (1, 2, 12, 13), position=(4, 2))
    expected = torch.zeros(12, 13, dtype=torch.float64)
    expected[4:7, 2:7] = 1 / 15
    assert_close(found.map, expected)
    assert found.extent == ((4, 6), (2, 6))
    assert found.size == (3, 5)
    assert found.position == (4, 2)
    assert_close(found.profile[1][2:7], torch.full((5,), 0.2, dtype=torch.float64))
    assert str(found) == "3×5 hold 95% of the energy along each axis (4..6, 2..6)"


def test_two_boxes_make_a_triangle():
    found = effective_receptive_field(
        constant(nn.Conv1d(1, 1, 3, bias=False), nn.Conv1d(1, 1, 3, bias=False)), (1, 1, 15)
    )
    weights = torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64).square()
    assert found.position == (5,)
    assert_close(found.map[5:10], weights / weights.sum())


def test_energies_of_channels_add_instead_of_cancelling():
    model = nn.Conv1d(1, 2, 1, bias=False).double()
    model.weight.data[:] = torch.tensor([1.0, -1.0]).view(2, 1, 1)
    assert float(effective_receptive_field(model, (1, 1, 5), samples=64).map[2]) == 1.0


@pytest.mark.parametrize("share", [0.5, 0.95, 1.0])
def test_lies_inside_the_theoretical_field(share):
    layers = [layer for _ in range(6) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), *layers)
    whole = receptive_field(model, (1, 3, 64, 48))
    found = effective_receptive_field(model, (1, 3, 64, 48), share=share)
    for axis in range(2):
        first, last = whole.interval(axis, found.position[axis])
        assert first <= found.extent[axis][0] <= found.extent[axis][1] <= last
        outside = found.profile[axis].clone()
        outside[max(first, 0) : last + 1] = 0
        assert float(outside.sum()) == 0
        held = found.profile[axis][slice(found.extent[axis][0], found.extent[axis][1] + 1)].sum()
        assert held >= share * (1 - 1e-9)
    if share == 0.5:
        assert found.size < whole.size
    assert float(found.map.sum()) == pytest.approx(1)


def test_a_tensor_is_used_as_it_is():
    dead = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.ReLU())
    nn.init.constant_(dead[0].weight, 1.0)
    assert float(effective_receptive_field(dead, torch.ones(1, 1, 4)).map[2]) == 1.0
    with pytest.raises(ValueError, match="gradient of energy 0"):
        effective_receptive_field(dead, -torch.ones(1, 1, 4))


def test_outputs_without_positions_and_other_layouts():
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = effective_receptive_field(pooled, (1, 3, 8, 8))
    assert found.position == (None, None)
    assert found.size == (8, 8)
    last = effective_receptive_field(nn.Linear(4, 2), (1, 6, 4), axes=(1,), position=(-1,))
    assert (last.position, last.extent) == ((5,), ((5, 5),))


def test_plain_data():
    found = effective_receptive_field(nn.Conv1d(1, 1, 3), (1, 1, 6)).to_dict()
    assert set(found) == {"size", "extent", "share", "position", "profile", "map"}
    assert found["profile"][0] == found["map"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"samples": 0}, "`samples` (=0) must be an integer of 1 or more"),
        ({"share": 0}, "`share` (=0) must lie between 0 and 1"),
        ({"share": 1.5}, "`share` (=1.5)"),
        ({"position": (1,)}, "`position` (=(1,)) must be one output position per spatial axis; use 0 to 5, 0 to 5"),
        ({"position": (1, 6)}, "use 0 to 5, 0 to 5"),
        ({"position": (1, 2.5)}, "use 0 to 5, 0 to 5"),
    ],
)
def test_refuses(options, text):
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        effective_receptive_field(nn.Conv2d(3, 4, 3), (1, 3, 8, 8), **options)
    assert text in str(raised.value)


def test_no_gradient():
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach() * 2

    with pytest.raises(ValueError, match="passes no gradient"):
        effective_receptive_field(Detached(), (1, 3, 8, 8))
