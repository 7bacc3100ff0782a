# SPDX-License-Identifier: Apache-2.0
"""Every named setting, at positions in one to three dimensions, is a problem of its name that is computed right."""

from __future__ import annotations

import pytest

from contract.problems import CASES, family_of
from contract.test_cost import check_macs, check_params
from contract.test_values import check_values
from omniconv.core.family import Position, settings
from omniconv.core.register import Plan

SIZES = {1: (12,), 2: (7, 9), 3: (4, 5, 6)}
POSITIONS = [
    Position(in_channels, out_channels, size, (3,) * dim, (1,) * dim, (1,) * dim, bias=bias)
    for dim, size in SIZES.items()
    for in_channels, out_channels, bias in ((8, 8, True), (16, 8, False), (5, 7, True))
]

NAMES = pytest.mark.parametrize("name", settings(), ids=[f"{f.name}-{name}" for name, (f, _) in settings().items()])


def built(setting, position):
    """The problem of ``setting`` at ``position``, or at the nearest position that it fits; None where there is none."""
    moved = setting.nearest(position)
    try:
        return setting.build(moved[0] if moved else position)
    except ValueError:
        return None


def check_setting(problem, setting):
    """The problem bears the setting's name and is computed and counted as its family's formula says."""
    family = family_of(problem)
    name = family.setting_of(problem).name
    assert name == setting.name, f"{problem} bears the name {name!r}, and {setting.name!r} built it"
    check_values(problem, Plan)
    check_macs(problem, family.cost)
    check_params(problem, family.cost, family.layer_of)


@NAMES
def test_setting(name):
    _, setting = settings()[name]
    problems = [built(setting, position) for position in POSITIONS if setting.nearest(position) is None]
    found = [problem for problem in problems if problem is not None]
    assert len(found) >= 2
    for problem in found:
        check_setting(problem, setting)


@NAMES
def test_setting_has_a_case(name):
    family, setting = settings()[name]
    assert any(family.setting_of(case.problem) is setting for case in CASES if case.family is family)
