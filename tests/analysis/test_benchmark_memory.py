# SPDX-License-Identifier: Apache-2.0
"""``benchmarks/memory.py``: it counts what a step's tensors take, finds what it holds, and draws it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

import memory
from omniconv.core.problem import ConvProblem

DEFORMED = "deformable:n2_c4_o6_i5x7_k3x3_pad1_b_head=0_mask=1_offset-groups=2"


def test_tensors_are_arguments_output_and_a_gradient_of_each():
    numbers = 2 * 35 * (4 + 6 + 36 + 18) + 6 * 4 * 9 + 6
    assert memory.Step(ConvProblem.parse(DEFORMED), "float32").tensors() == 2 * 4 * numbers
    assert memory.Step(ConvProblem.parse(DEFORMED), "bfloat16").tensors() == 2 * 2 * numbers


@pytest.mark.parametrize(("text", "sizes"), [("deform2_56x64", [(4, 4), (8, 8)]), ("conv:c4_o4_k3_g4", [(16,), (64,)])])
def test_problems_are_named_or_spelled_and_grow(text, sizes):
    steps = memory.steps_of(text, [4, 8], "float32")
    assert [step.problem.in_size for step in steps] == sizes


@pytest.mark.skipif(not memory.MARK.exists(), reason="only Linux tells a peak")
@pytest.mark.parametrize("way", memory.WAYS)
def test_a_depthwise_step_holds_little_but_its_tensors(way):
    (step,) = memory.steps_of("conv:c16_o16_k3x3_g16_pad1", [512], "float32")
    peak = memory.apart(step, way)
    assert step.tensors() < peak < 2 * step.tensors()


def test_the_figure_has_a_mark_for_every_peak():
    peaks = ({"native/cf": 3e6 * at, "native/cl": 2.5e6 * at, "aten/cf": 2e7 * at} for at in (1, 2, 9))
    rows = [{"problem": DEFORMED, "size": "5×7", "tensors": 2e6, "peak": peak} for peak in peaks]
    drawn = ET.fromstring(memory.drawn({"version": "0", "rows": rows}))  # noqa: S314  # drawn a moment ago
    titles = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 1 + 3 * (3 + 2)
    assert "native/cl, 5×7: 2.4 MiB, 1.25 of its tensors" in titles
    assert memory.ticks(150) == [0, 20, 40, 60, 80, 100, 120, 140]
