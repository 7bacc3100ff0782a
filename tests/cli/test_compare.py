# SPDX-License-Identifier: Apache-2.0
"""``omniconv compare``: the numbers, the names, the shapes that do not fit, and what a wrong value gets."""

from __future__ import annotations

import json
import re

import pytest

from omniconv import compare

# family: params, MACs, receptive field, channels out; of a 3×3 layer from 64 to 128 channels at 56×56
KNOWN = {
    "standard": (73_728, 231_211_008, [3, 3], 128),
    "dilated": (73_728, 231_211_008, [5, 5], 128),
    "transposed": (73_728, 231_211_008, [3, 3], 128),
    "spatial-separable": (36_864, 115_605_504, [3, 3], 128),
    "grouped": (18_432, 57_802_752, [3, 3], 128),
    "depthwise-separable": (8_768, 27_496_448, [3, 3], 128),
    "pointwise": (8_192, 25_690_112, [1, 1], 128),
    "depthwise": (1_152, 3_612_672, [3, 3], 128),
    "deformable": (84_096, 263_725_056, [3, 3], 128),
    "lightweight": (72, 1_806_336, [3, 3], 64),
    "dynamic": (4_608, 16_257_024, [3, 3], 64),
}


def rows(result):
    assert result.exit_code == 0, result.stderr
    return {row["family"]: row for row in json.loads(result.stdout)["rows"]}


@pytest.mark.parametrize("family", KNOWN)
def test_numbers(call, family):
    row = rows(call("compare 64 128 56 --json"))[family]
    assert (row["params"], row["macs"], row["receptive_field"], row["out_channels"]) == KNOWN[family]


def test_eleven_rows_in_the_order_of_the_documentation(call):
    result = call("compare 64 128 56 --json")
    assert set(rows(result)) == set(KNOWN)
    listed = [line.split("\t")[0] for line in call("families").stdout.splitlines()[1:]]
    assert [row["family"] for row in json.loads(result.stdout)["rows"]] == listed


def test_ratios_are_to_standard_of_the_same_shape(call):
    found = rows(call("compare 64 128 56 --json"))
    assert found["grouped"]["ratio"] == 0.25
    # At 64 → 64 the standard convolution has half the multiply-adds that it has at 64 → 128.
    assert found["lightweight"]["ratio"] == 1_806_336 / 115_605_504
    assert found["lightweight"]["standard"] == "conv:n1_c64_o64_i56x56_k3x3_pad1"
    assert "64 → 64" in found["lightweight"]["note"]


def test_schema(call):
    facts = json.loads(call("compare 64 128 56x48 --json").stdout)
    assert facts["schema"] == 1
    assert facts["machine"] is None
    assert facts["position"]["in_size"] == facts["position"]["out_size"] == [56, 48]
    assert {"in_channels", "out_channels", "kernel_size", "stride", "batch", "dtype", "device"} <= set(
        facts["position"]
    )
    for row in facts["rows"]:
        assert row["time_ms"] is row["bound_ms"] is row["noisy"] is None
        assert row["bytes"] > 0
        assert row["flop_per_byte"] == row["flops"] / row["bytes"]
        assert sum(part["macs"] for part in row["parts"]) == row["macs"]


def test_bytes_follow_the_dtype(call):
    wide, narrow = (rows(call(f"compare 8 8 9 --json --dtype {d}")) for d in ("float64", "bfloat16"))
    assert all(wide[name]["bytes"] == 4 * narrow[name]["bytes"] for name in wide)


def test_what_cannot_be_built_is_shown_with_its_reason(call):
    row = rows(call("compare 16 16 100 --dim 1 --json"))["spatial-separable"]
    assert row["available"] is False
    assert row["macs"] is None
    assert row["note"].startswith("unavailable: `kernel_size`")
    assert "nothing to separate" in call("compare 16 16 100 --dim 1 --format human").stdout


def test_the_nearest_shape_is_shown_with_a_note(call):
    found = rows(call("compare 6 9 10 --json --heads 4"))
    assert (found["depthwise"]["out_channels"], found["grouped"]["note"]) == (
        12,
        "4 groups do not divide the channels; shown with 3",
    )
    assert "multiple of in" in found["depthwise"]["note"]
    assert "4 heads do not divide 6" in found["dynamic"]["note"]


def test_the_same_convolution_by_another_name_is_called_so(call):
    found = rows(call("compare 8 8 9 -k 1 -g 8 --json"))
    assert found["standard"]["note"] == "with these numbers it is pointwise"
    assert found["grouped"]["note"] == "with these numbers it is depthwise"
    assert found["pointwise"]["note"] == ""


def test_dilation(call):
    found = rows(call("compare 8 8 30 -d 3 --json"))
    assert found["dilated"]["receptive_field"] == found["depthwise"]["receptive_field"] == [7, 7]
    assert found["standard"]["note"] == "with these numbers it is dilated"


def test_a_position_that_enlarges(call):
    found = rows(call("compare 64 32 28 --up 2 --json"))
    assert all(row["out_size"] == [56, 56] for row in found.values())
    assert found["transposed"]["in_size"] == [28, 28]
    assert found["transposed"]["macs"] * 4 == found["standard"]["macs"]
    assert found["standard"]["in_size"] == [56, 56]
    assert "enlarged to 56×56, where its RF lies" in found["standard"]["note"]


def test_stride(call):
    found = rows(call("compare 8 8 30 -s 2 --json"))
    assert found["standard"]["out_size"] == [15, 15]
    assert found["transposed"]["out_size"] == [30, 30]
    assert found["transposed"]["ratio"] == 1
    assert "15×15 → 30×30" in found["transposed"]["note"]


@pytest.mark.parametrize(
    ("size", "kernel", "field"), [("40", "3", [3, 3]), ("40x9", "3x5", [3, 5]), ("9x8x7", "3", [3, 3, 3])]
)
def test_sizes_and_kernels_per_axis(call, size, kernel, field):
    assert rows(call(f"compare 4 4 {size} -k {kernel} --json"))["standard"]["receptive_field"] == field


def test_only_and_skip_take_aliases_in_any_spelling(call):
    assert list(rows(call("compare 8 8 9 --json --only atrous,depthwise_separable"))) == [
        "dilated",
        "depthwise-separable",
    ]
    left = rows(call("compare 8 8 9 --json --skip Deconvolution --skip dcn"))
    assert set(left) == set(KNOWN) - {"transposed", "deformable"}


def test_only_keeps_the_ratio_to_standard(call):
    assert rows(call("compare 64 128 56 --json --only grouped"))["grouped"]["ratio"] == 0.25


@pytest.mark.parametrize("key", ["params", "macs", "bytes", "flop_per_byte"])
def test_sort(call, key):
    values = [row[key] for row in rows(call(f"compare 64 128 56 --json --sort {key}")).values()]
    assert values == sorted(values)
    assert values != [row[key] for row in rows(call("compare 64 128 56 --json")).values()]


def test_sort_puts_what_is_unavailable_last(call):
    assert list(rows(call("compare 16 16 100 --dim 1 --json --sort macs")))[-1] == "spatial-separable"


@pytest.mark.parametrize(
    ("line", "said", "instead"),
    [
        ("compare 0 128 56", "`in_channels` (=0) must be at least 1", "omniconv compare 1 128 56"),
        ("compare 64 128 0", "`size` (=0) must be at least 1", "omniconv compare 64 128 1"),
        ("compare 64 128 56x0", "`size` (=0)", "omniconv compare 64 128 56x1"),
        ("compare 64 128 56 -k 0", "`kernel_size` (=0)", "omniconv compare 64 128 56 -k 1"),
        ("compare 64 128 56 -s 0", "`stride` (=0)", "omniconv compare 64 128 56"),
        ("compare 64 128 56 -d 0", "`dilation` (=0)", "omniconv compare 64 128 56"),
        ("compare 64 128 56 -g 0", "`groups` (=0)", "omniconv compare 64 128 56 -g 1"),
        ("compare 64 128 56 --heads 0", "`heads` (=0)", "omniconv compare 64 128 56 --heads 1"),
        ("compare 64 128 56 -n 0", "`batch` (=0)", "omniconv compare 64 128 56"),
        ("compare 64 128 56 --up 0", "`up` (=0)", "omniconv compare 64 128 56"),
        ("compare 64 128 56 --up 2 -s 2", "cannot both be above 1", "omniconv compare 64 128 56 --up 2"),
        ("compare 64 128 56x48 --dim 3", "one value per axis (3)", ""),
        ("compare 64 128 5x5x5x5", "one to three axes", "omniconv compare 64 128 5x5x5"),
        ("compare 64 128 56 -k 3x3x3", "one value per axis (2)", ""),
        (
            "compare 64 128 56 --only depthwize",
            "`family` (='depthwize') is not known; use 'depthwise'",
            "--only depthwise",
        ),
        ("compare 64 128 56 --only grouped --skip group", "leaves nothing", ""),
        ("compare 64 128 56 --sort tme", "`sort` (='tme')", "--sort time --time"),
        ("compare 64 128 56 --sort time", "needs times", "--sort time --time"),
        ("compare 64 128 56 --only ,", "leaves nothing", "omniconv compare 64 128 56"),
        ("compare 64 128 56 --device cuda", "`device` (='cuda') needs times", "--time --device cuda"),
        ("compare 64 128 56 --channels-last", "`channels_last` (=True) needs times", "--time --channels-last"),
        ("compare 64 128 56 --threads 2", "`threads` (=2) needs times", "--time --threads 2"),
        ("compare 64 128 56 --threads 0", "`threads` (=0) must be at least 1", "--time --threads 1"),
        ("compare 64 128", "Missing argument 'SIZE'", ""),
        ("compare 64 128 big", "use 3 or 3x5", ""),
        ("compare 6.5 128 56", "'6.5' is not a valid integer", ""),
        ("compare 64 128 56 --dtype int8", "'int8' is not one of", ""),
        ("compare 64 128 56 --dim 4", "4 is not in the range", ""),
        ("compare 64 128 56 --nope", "No such option", ""),
        ("compare 64 128 56 --json --format csv", "ask for two formats", ""),
    ],
)
def test_wrong_values(call, line, said, instead):
    result = call(line)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if instead:
        assert result.stderr.rstrip().endswith(f"try: {instead}") or instead in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"only": 1}, "`only` and `skip` take names"),
        ({"skip": [1]}, "must be a string"),
        ({"time": "no"}, "`time` (='no') must be True or False"),
        ({"channels_last": 1}, "`channels_last` (=1) must be True or False"),
        ({"threads": "2"}, "`threads` (='2') must be an integer"),
        ({"seconds": "2"}, "`seconds` (='2') must be a number"),
        ({"seconds": True}, "`seconds` (=True) must be a number"),
    ],
)
def test_wrong_types(arguments, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        compare(8, 8, 9, **arguments)


def test_what_an_error_proposes_is_legal(call):
    for line in ("compare 64 128 0", "compare 6 9 4x0 -k 0 -s 0 -g 0", "compare 8 8 9 --only depthwize --up 2 -s 3"):
        proposal = call(line).stderr.splitlines()[-1].removeprefix("try: omniconv ")
        assert call(proposal).exit_code == 0, proposal
