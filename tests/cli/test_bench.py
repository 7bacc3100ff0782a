# SPDX-License-Identifier: Apache-2.0
"""``omniconv bench``: named problems timed beside other libraries."""

from __future__ import annotations

import csv
import json

import pytest

from omniconv.core.register import Plan

ONE = "bench ^tiny_dw3_7x32/cf$ --peers torch --seconds 0.02 -q"


@pytest.fixture(autouse=True)
def _machine(machine, monkeypatch):
    """Nothing is measured of the machine."""
    monkeypatch.setattr("omniconv.analysis.benchmark.measure.measure_machine", lambda *a: machine)


def test_every_form(call, tmp_path):
    facts = json.loads(call(f"{ONE} --json").stdout)
    assert facts["schema"] == 2
    assert facts["options"] == {"seconds": 0.02, "rt": False, "peers": ["torch"]}
    (record,) = csv.DictReader(call(f"{ONE} --format csv").stdout.splitlines())
    assert record["name"] == "tiny_dw3_7x32/cf"
    assert float(record["time_ms"]) > 0
    assert float(record["over_torch"]) > 0
    human = call(f"{ONE} --format human").stdout
    assert "× torch" in human
    assert "of bound" in human
    assert "커널" in call(f"{ONE} --format human --lang ko").stdout
    assert call(f"{ONE} --format md").stdout.startswith("| problem")
    path = tmp_path / "times.json"
    assert call(f"{ONE} -o {path}").exit_code == 0
    assert json.loads(path.read_text())["rows"][0]["name"] == "tiny_dw3_7x32/cf"


def test_a_pipe_gets_every_column(call):
    head, values = call(ONE).stdout.splitlines()
    assert head.count("\t") == values.count("\t") > 15


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("bench depthwse", "try: omniconv bench 'depthwise"),
        ("bench nothing-like-this", "there are depthwise 2-D"),
        ("bench (", "no regular expression"),
        ("bench ^dw7 --peers tensorflow", "`peers` (='tensorflow')"),
        ("bench ^dw7 --seconds 0", "`seconds`"),
        ("bench ^vocos --dtype bfloat16", "matches no problem with `dtype` bfloat16"),
        ("bench ^dw7 --layout nchw", "'nchw' is not one of"),
    ],
)
def test_wrong_values(call, line, said):
    result = call(line)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_a_wrong_answer_fails(call, monkeypatch):
    monkeypatch.setattr(Plan, "__call__", lambda self, *tensors: tensors[0] * 0)
    result = call(f"{ONE} --json")
    assert result.exit_code == 1
    assert "differs from the formula" in result.stderr
    assert "wrong" in json.loads(result.stdout)["rows"][0]
