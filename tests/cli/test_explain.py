# SPDX-License-Identifier: Apache-2.0
"""``omniconv explain``: formulas with numbers in them, kernels with reasons, and a loop that may disagree."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from omniconv.core.cost import Formula
from omniconv.core.family import families, settings


def facts(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_transposed_is_counted_on_input_positions_and_proved(call):
    result = call("explain transposed 16 8 8 -k 4 -s 2 -p 1 --proof")
    assert result.exit_code == 0
    lines = dict(line.split("\t", 1) for line in result.stdout.splitlines())
    assert lines["MACs"] == "N·I·C·O/G·K = 1·64·16·8/1·16 = 131,072"
    assert "131,072 products, as the formula says; 115,200 touch data" in lines["proof"]
    assert lines["params"].endswith("= 2,048")
    assert lines["position"].startswith("16 → 8 channels   8×8 → 16×16   k4 s2 p1")


def test_transposed_as_json(call):
    found = facts(call("explain deconvolution 16 8 8 -k 4 -s 2 -p 1 --proof --json"))
    assert found["schema"] == 1
    assert found["family"] == "transposed"
    assert found["macs"] == found["proof"]["counted"] == 131_072
    assert found["proof"]["on_data"] == 115_200
    assert found["out_size"] == [16, 16]
    assert found["receptive_field"] == [2, 2]


@pytest.mark.parametrize(
    ("line", "macs"),
    [
        ("standard 64 128 56", 231_211_008),
        ("atrous 64 128 56", 231_211_008),
        ("grouped 64 128 56", 57_802_752),
        ("depthwise 64 128 56", 3_612_672),
        ("pointwise 64 128 56", 25_690_112),
        ("spatial_separable 64 128 56", 115_605_504),
        ("Depthwise_Separable 64 128 56", 27_496_448),
        ("deformable 64 128 56", 263_725_056),
        ("lightweight 64 64 56", 1_806_336),
        ("dynamic 64 64 56", 16_257_024),
        ("standard 4 6 11x7 -k 3x2 -s 2x1 -p 1x0 -n 3 --bias", 3 * 6 * 6 * 4 * 6 * 6),
        ("grouped 8 12 30 --dim 1 -k 5 -g 4 -p causal", 30 * 12 * 2 * 5),
        ("standard 3 2 6x5x4 -k 2 -p 0:1x1:0x0", 6 * 5 * 3 * 6 * 8),
    ],
)
def test_every_step_is_proved_by_a_loop(call, line, macs):
    found = facts(call(f"explain {line} --proof --json"))
    assert found["macs"] == macs
    assert found["proof"]["holds"] is True
    assert found["proof"]["counted"] + found["proof"]["not_walked"] == macs
    assert found["proof"]["not_walked"] == 0
    assert 0 < found["proof"]["on_data"] <= macs


def test_formulas_come_to_what_they_say(call):
    for line in ("standard 64 128 56 -g 1", "depthwise-separable 64 128 56", "dynamic 64 64 9"):
        found = facts(call(f"explain {line} --json"))
        for quantity, total in (("macs", found["macs"]), ("params", found["params"])):
            numbers = [step[quantity]["numbers"] for step in found["steps"]]
            worked = [text.replace(",", "").replace("·", "*").replace("/", "//") for text in numbers]
            assert sum(map(eval, worked)) == total


@pytest.mark.parametrize(
    ("padding", "out"),
    [("0", [7, 3]), ("1", [9, 5]), ("1x2", [9, 7]), ("0:1x1:0", [8, 4]), ("same", [9, 5]), ("valid", [7, 3])],
)
def test_padding(call, padding, out):
    assert facts(call(f"explain standard 2 2 9x5 -p {padding} --json"))["out_size"] == out


def test_output_padding(call):
    assert facts(call("explain transposed 2 2 8 -s 2 -p 1 --op 1 --json"))["out_size"] == [16, 16]
    assert facts(call("explain transposed 2 2 8 -s 2 -p 1 --op 0 --json"))["out_size"] == [15, 15]


def test_the_kernel_and_why_not_the_others(call):
    found = facts(call("explain standard 4 4 9 -p 0:1x1:0 --json"))
    assert found["kernel"] == "padded"
    assert [refusal["kernel"] for refusal in found["refused"]] == ["native", "channels_last", "image", "direct"]
    text = call("explain standard 4 4 9 -p 0:1x1:0").stdout
    assert "Not native: every channel meets every other" in text
    assert "Not direct: the padding ((0, 1), (1, 0)) is not the same on both sides" in text


@pytest.mark.parametrize(("hidden", "kernel"), [("", "native"), ("0", "direct")])
def test_a_hidden_library_is_a_reason(call, monkeypatch, hidden, kernel):
    monkeypatch.setenv("OMNICONV_NATIVE", hidden)
    found = facts(call("explain depthwise 4 4 9 --json"))
    assert found["kernel"] == kernel
    assert ("OMNICONV_NATIVE=0" in str(found["refused"])) == (hidden == "0")


def test_bias_and_sampling_are_counted_apart(call):
    found = facts(call("explain deformable 4 6 5 --bias --json"))
    assert found["sampling"] == 25 * 9 * 4 * 4
    assert found["bias_adds"] == 25 * (18 + 6)
    assert found["macs"] == 25 * 9 * 4 * (18 + 6)
    assert "multiply-adds of bilinear sampling" in call("explain deformable 4 6 5").stdout


def test_a_loop_that_disagrees_exits_with_3(call, monkeypatch):
    family = families()["conv"]
    honest = family.cost

    def wrong(problem):
        cost = honest(problem)
        step = cost.steps[0]
        text = step.macs.text + "+1"
        return dataclasses.replace(cost, steps=(dataclasses.replace(step, macs=Formula(text, step.macs.letters)),))

    monkeypatch.setitem(family.__dict__, "cost", wrong)
    result = call("explain standard 2 2 4 --proof")
    assert result.exit_code == 3
    assert "counts something else" in result.stderr
    assert "BUT THE FORMULA SAYS 577" in result.stdout
    assert call("explain standard 2 2 4").exit_code == 0


def test_what_no_loop_walks_is_said(call, monkeypatch):
    family = families()["conv"]
    honest = family.cost

    def unwalked(problem):
        cost = honest(problem)
        return dataclasses.replace(cost, steps=(dataclasses.replace(cost.steps[0], walk=None),))

    monkeypatch.setitem(family.__dict__, "cost", unwalked)
    result = call("explain standard 2 2 4 --proof")
    assert result.exit_code == 0
    assert "not walked by a loop" in result.stdout


@pytest.mark.parametrize(
    ("line", "said", "instead"),
    [
        ("grouped 64 128 56 -g 3", "`groups` (=3) must divide `in_channels` (=64)", "explain grouped 64 128 56 -g 2"),
        ("depthwise 8 9 20", "must divide `out_channels` (=9)", "explain depthwise 8 8 20"),
        ("lightweight 64 128 56", "`out_channels` (=128) must be `in_channels` (=64)", "explain lightweight 64 64 56"),
        ("dynamic 64 64 56 --heads 7", "`heads` (=7) must divide", "explain dynamic 64 64 56 --heads 8"),
        ("pointwise 8 8 9 -k 3", "`kernel_size` (=3) must be 1 for pointwise", "explain pointwise 8 8 9"),
        ("standard 8 8 9 -g 2", "`groups` (=2) must be 1 for standard", "explain standard 8 8 9"),
        ("standard 8 8 9 --heads 2", "`heads` (=2) must be 1 for standard", "explain standard 8 8 9"),
        ("standard 8 8 9 --op 1", "`output_padding` (=1) must be 0 for standard", "explain standard 8 8 9"),
        ("transposed 8 8 9 -s 2 -p 1 --op 3", "`output_padding` (=3)", "explain transposed 8 8 9 -s 2 -p 1"),
        ("dilated 8 8 9 -d 1", "`dilation` (=1) must be 2 for dilated", "explain dilated 8 8 9"),
        ("standard 8 8 3 -k 9 -p 0", "too small for a kernel that spans 9", "explain standard 8 8 3 -k 9"),
        (
            "standard 8 8 9 -s 2 -p same",
            "`padding` (='same') needs `stride` (=2) to be 1",
            "explain standard 8 8 9 -s 2",
        ),
        ("standard 8 8 9 -p foo", "before:after per axis", ""),
        ("standard 8 8 9 -p 1:2:3", "before:after per axis", ""),
        ("standard 8 8 9 -p -1", "`padding` (=-1)", "explain standard 8 8 9"),
        ("convolushon 8 8 9", "is not known", ""),
        ("causal 8 8 9", "use one of standard, dilated", ""),
        ("dephtwise 8 8 9", "use 'depthwise'", "explain depthwise 8 8 9"),
        ("spatial-separable 8 8 9 --dim 1", "nothing to separate", ""),
        ("standard 8 8 9 -n 0", "`batch` (=0) must be at least 1", "explain standard 8 8 9"),
        ("standard 8 8 5000x5000 --proof", "steps to walk", "explain standard 8 8 5000x5000\n"),
    ],
)
def test_wrong_values(call, line, said, instead):
    result = call(f"explain {line}")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
    if instead:
        assert f"try: omniconv {instead}" in result.stderr
        proposal = result.stderr.splitlines()[-1].removeprefix("try: omniconv ")
        assert call(proposal).exit_code == 0


@pytest.mark.parametrize("name", settings())
def test_every_letter_is_explained(call, name):
    """What stands for a letter beside each formula is under `letters`, for each step."""
    found = facts(call(f"explain {name} 8 8 8 --bias --json"))
    shown = call(f"explain {name} 8 8 8 --bias --format plain").stdout
    said = [line.split("\t")[1] for line in shown.splitlines() if line.startswith("letters\t")]
    assert len(said) == len(found["steps"])
    for line, step in zip(said, found["steps"], strict=True):
        formulas = " ".join(step[part]["formula"] for part in ("params", "macs", "inputs", "outputs"))
        for letter in set(re.findall(r"\b[A-Z]\b", formulas + " O" * bool(step["bias"]))):
            assert re.search(rf"\b{letter}=[\d,]+ [a-z]", line), letter
