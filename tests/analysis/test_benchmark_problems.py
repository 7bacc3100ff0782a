# SPDX-License-Identifier: Apache-2.0
"""What is timed, and the work that bounds its time: numbers worked out by hand."""

from __future__ import annotations

import pytest

from omniconv.analysis.benchmark.measure import _kernel
from omniconv.analysis.benchmark.problems import DTYPES, LAYOUTS, MODES, Benchmark, benchmarks, every
from omniconv.analysis.machine import Machine
from omniconv.core.family import families, settings
from omniconv.core.library import absent
from omniconv.core.problem import ConvProblem

GROUPS = (
    "depthwise 2-D",
    "depthwise 31×31",
    "depthwise 1-D",
    "depthwise 3-D",
    "transposed depthwise",
    "small groups",
    "spatially separable depthwise",
    "lightweight 1-D",
    "dynamic 1-D",
    "involution 2-D",
)


def named(name):
    return next(benchmark for benchmark in every() if benchmark.name == name)


def test_names_are_unique_and_problems_are_legal():
    found = list(every())
    assert len({benchmark.name for benchmark in found}) == len(found) >= 60
    for benchmark in found:
        benchmark.family.check(benchmark.problem)
        assert ConvProblem.parse(str(benchmark.problem)) == benchmark.problem


def test_every_family_and_every_setting_is_timed():
    found = benchmarks("every setting")
    assert {b.problem.family for b in found} == set(families())
    assert [b.name.split("_56/")[0] for b in found] == list(settings())


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_with_a_target_has_both_layouts_both_ways(group):
    found = [b for b in every() if b.group == group]
    assert {(b.layout, b.mode) for b in found if b.dtype == "float32"} == {(a, m) for a in LAYOUTS for m in MODES}


def test_groups_stand_together():
    groups = [benchmark.group for benchmark in every()]
    starts = sum(group != before for group, before in zip(groups[1:], groups, strict=False))
    assert starts + 1 == len(set(groups))


def test_they_can_be_chosen():
    assert {b.dtype for b in benchmarks(dtype="bfloat16")} == {"bfloat16"} < set(DTYPES)
    assert {(b.layout, b.mode) for b in benchmarks("^dw7", layout="cl", mode="training")} == {("cl", "training")}
    assert [b.name for b in benchmarks("^dw31.*cf$")] == ["dw31_56x128/cf"]
    assert {b.group for b in benchmarks("31×31")} == {"depthwise 31×31"}
    assert benchmarks("no such problem") == []
    with pytest.raises(ValueError, match="no regular expression"):
        benchmarks("(")


@pytest.mark.parametrize(
    "variant", ["nchw", "cl.int8", "cf.train.bf16", "cf.bf16.bf16.train", "cl.add.relu", "cl.tanh", "cl.relu "]
)
def test_an_unknown_variant_is_refused(variant):
    with pytest.raises(ValueError, match=r"cl\.bf16\.relu6\.add\.train"):
        Benchmark.of("a", "b", ConvProblem.parse("conv:n1_c1_o1_i3_k3"), variant)


@pytest.mark.parametrize(
    ("name", "flops", "elements", "itemsize"),
    [
        # 96 channels of 56² outputs, 49 taps each; input and output of 96·56², 96·49 weights
        ("dw7_56x96/cf", 2 * 96 * 56**2 * 49, 2 * 96 * 56**2 + 96 * 49, 4),
        ("dw7_56x96/cl.bf16", 2 * 96 * 56**2 * 49, 2 * 96 * 56**2 + 96 * 49, 2),
        # training: three times the FLOPs; x, w, y, then gy, x, w, gx, gw
        ("dw7_56x96/cf.train", 6 * 96 * 56**2 * 49, 5 * 96 * 56**2 + 3 * 96 * 49, 4),
        # 28² inputs, each meets 16 taps; the output has 56² positions
        ("tconv_dw_k4s2_28x128/cf", 2 * 128 * 28**2 * 16, 128 * (28**2 + 56**2 + 16), 4),
        # two passes of 11 taps, and what lies between them never reaches memory
        ("spsep_dw_k11_56x96/cf", 2 * 2 * 96 * 56**2 * 11, 2 * 96 * 56**2 + 2 * 96 * 11, 4),
        # 8 kernels of 31 taps for 512 channels of 8·512 positions
        ("light_k31_512h8/cf", 2 * 512 * 4096 * 31, 2 * 512 * 4096 + 8 * 31, 4),
        # 32 groups of 4 channels
        ("grp32_56x128/cf", 2 * 128 * 56**2 * 4 * 9, 2 * 128 * 56**2 + 128 * 4 * 9, 4),
    ],
)
def test_work(name, flops, elements, itemsize):
    assert named(name).work() == (flops, elements * itemsize)


def test_the_roofline_is_the_greater_of_both():
    machine = Machine("assumed", "cpu", "float32", 2, "2", 331e9, ((2e6, 118e9), (8e6, 56e9)))
    compute = machine.roofline(*named("dw7_56x96/cf.train").work())
    assert (compute.binds, round(1e3 * compute.seconds, 3)) == ("compute", 0.267)
    memory = machine.roofline(*named("tconv_dw_k4s2_28x128/cf").work())
    assert (memory.binds, round(1e3 * memory.seconds, 3)) == ("memory", 0.017)


@pytest.mark.parametrize(
    ("text", "variant", "kernel"),
    [
        ("conv:n1_c16_o16_i5x5_k3x3_g2_pad1", "cl", "native"),
        ("conv:n1_c16_o16_i5x5_k3x3_g2_pad1", "cl.bf16", "direct"),
        ("conv:n1_c16_o16_i5x5_k3x3_g2_pad1", "cf.bf16", "native"),
        ("conv:n1_c32_o32_i5x5_k3x3_g2_pad1", "cl", "direct"),
        ("conv:n1_c32_o32_i5x5_k3x3_g32_pad1", "cl.bf16", "native"),
    ],
)
@pytest.mark.skipif(bool(absent()), reason=absent())
def test_a_row_names_the_kernel_that_runs(text, variant, kernel):
    assert _kernel(Benchmark.of("group", "x", ConvProblem.parse(text), variant), "cpu") == kernel
