# SPDX-License-Identifier: Apache-2.0
"""A time only behind a right answer, what a result holds, and what the scripts make of it."""

from __future__ import annotations

import copy
import json
import os
import re
from xml.etree import ElementTree as ET

import pytest

import chart
import compare
import limits
import omniconv
import run
import targets
from omniconv.analysis.benchmark import measure
from omniconv.analysis.benchmark.scheduling import real_time
from omniconv.analysis.machine import Machine, better
from omniconv.core.library import absent
from omniconv.core.register import Plan
from results import path_for

MACHINE = Machine("assumed", "cpu", "float32", 1, "2.13.0", 1e11, ((1e6, 4e10),))
SMALL = "^tiny_dw3_7x32/cf"


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """A machine that takes no time to measure."""
    monkeypatch.setattr(measure, "measure_machine", lambda *_: MACHINE)


def bench(regex=SMALL, peers=("torch", "torch_cl"), **options):
    return omniconv.bench(regex, peers=peers, seconds=0.02, **options)


def test_a_row_holds_what_the_result_file_promises():
    found = bench()
    content = json.loads(found.to_json())
    assert (content["schema"], content["machine"]["peak"]) == (2, 1e11)
    assert set(content["versions"]) == {"python", "torch", "torch_cl"}
    assert [row["name"] for row in content["rows"]] == ["tiny_dw3_7x32/cf", "tiny_dw3_7x32/cf.train"]
    for row in content["rows"]:
        assert row["of_bound"] == pytest.approx(row["bound_ms"] / row["ms"]["median"])
        assert set(row["peers"]["torch"]["speedup"]) == {"median", "q1", "q3", "samples"}
        assert row["kernel"]
    assert len({tuple(record) for record in found.to_records()}) == 1


def test_the_table_names_its_peers_and_says_why_one_has_no_time():
    text = repr(bench("^tiny_dw3_7x32/cl"))
    assert "× torch_cl" in text
    assert "– torch_cl: the tensors lie in channels_last already: as torch: tiny_dw3_7x32/cl" in text
    assert re.search(r"≥ 0.97 × the fastest of torch: [01] / 1; least tiny_dw3_7x32/cl", text)


def test_a_wrong_answer_gets_no_time(monkeypatch):
    right = Plan.__call__
    monkeypatch.setattr(Plan, "__call__", lambda self, *tensors: right(self, *tensors) * 1.001)
    found = bench()
    assert all("differs from the formula" in row["wrong"] and "ms" not in row for row in found.to_dict()["rows"])
    assert found.wrong[0].startswith("tiny_dw3_7x32/cf: ")
    assert "wrong: tiny_dw3_7x32/cf: " in repr(found)
    assert len({tuple(record) for record in found.to_records()}) == 1


def test_a_peer_that_is_wrong_or_fails_gets_no_time(monkeypatch):
    def prepared(name, benchmark, operands, threads):
        if name == "torch":
            raise RuntimeError("no such primitive\nat all")
        return measure.answered(lambda x, *others: x * 2, operands)

    monkeypatch.setattr(measure, "prepared", prepared)
    row = bench("^tiny_dw3_7x32/cf$").to_dict()["rows"][0]
    assert row["ms"]["median"] > 0
    assert row["peers"]["torch"] == {"why": "failed: no such primitive"}
    assert row["peers"]["torch_cl"]["why"].startswith("wrong: the output differs")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regex": "no such problem"}, "there are depthwise 2-D"),
        ({"peers": ("tensorflow",)}, "onnxruntime"),
        ({"layout": "nchw"}, "`layout`"),
        ({"dtype": "bfloat16"}, "with `dtype` bfloat16"),
    ],
)
def test_bad_arguments(options, said):
    with pytest.raises(ValueError, match=said):
        bench(**options)


def test_the_better_moment_counts():
    slow = Machine("assumed", "cpu", "float32", 1, "2", 1e10, ((1e6, 9e10),), noise=0.1)
    both = better(MACHINE, slow)
    assert (both.peak, both.bandwidths, both.noise) == (1e11, ((1e6, 9e10),), 0.1)


def test_scheduling_is_put_back(monkeypatch):
    before = os.sched_getscheduler(0)
    with real_time() as refused:
        assert refused or os.sched_getscheduler(0) == os.SCHED_FIFO
    assert os.sched_getscheduler(0) == before

    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    warnings = []
    assert bench(rt=True, warn=warnings.append).options["rt"] is False
    assert "not permitted" in warnings[0]


def test_the_whole_run(tmp_path, capsys):
    path = tmp_path / "deep" / "result.json"
    assert run.main([f"{SMALL}$", "--seconds", "0.02", "-o", str(path)]) == 0
    written = json.loads(path.read_text())
    assert written["commit"]
    assert [row["name"] for row in written["rows"]] == ["tiny_dw3_7x32/cf"]
    said = capsys.readouterr().out
    assert "tiny_dw3_7x32/cf" in said
    assert "tiny, forward: ≤ 10 µs" in said
    assert compare.main([str(path), str(path), "--fail-above", "1.0"]) == 0
    assert path_for("1.0", written["machine"]).name == "assumed-cpu-1t.json"


def test_a_wrong_run_fails(monkeypatch, capsys):
    monkeypatch.setattr(Plan, "__call__", lambda self, *tensors: tensors[0] * 0)
    assert run.main([f"{SMALL}$", "--seconds", "0.02"]) == 1
    assert "WRONG tiny_dw3_7x32/cf" in capsys.readouterr().out


def test_a_usage_error_of_the_run(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["nothing-like-this"])
    assert stopped.value.code == 2
    assert "nothing-like-this" in capsys.readouterr().err


def spread(q1, median, q3):
    return {"median": median, "q1": q1, "q3": q3, "samples": 9}


def beside(q1, median, q3):
    return {"peers": {"torch": {"ms": spread(1, 1, 1), "speedup": spread(q1, median, q3)}}}


def row(name="a", **fields):
    about = {"name": name, "problem": "p", "group": "depthwise 2-D", "dtype": "float32", "mode": "forward"}
    timed = {"ms": spread(0.9, 1.0, 1.1), "noisy": False, "bound_ms": 0.5, "of_bound": 0.5, "peers": {}}
    return about | timed | fields


def result(*rows, **machine):
    about = {"schema": 2, "version": "0", "commit": "0", "options": {"peers": ["torch"]}}
    return about | {"machine": MACHINE.to_dict() | machine, "rows": list(rows)}


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (row(ms=spread(1.0, 1.15, 1.2)), "≈"),
        (row(ms=spread(1.2, 1.3, 1.4)), "slower"),
        (row(ms=spread(0.6, 0.7, 0.8)), "faster"),
        (row(ms=spread(1.2, 1.3, 1.4), noisy=True), "noisy"),
        ({"name": "a", "problem": "p", "wrong": "x"}, "wrong"),
    ],
)
def test_verdicts(new, verdict):
    assert [change["verdict"] for change in compare.changes(result(row()), result(new))] == [verdict]


@pytest.mark.parametrize(("now", "verdict"), [((2, 2, 2), "≈"), ((1, 1, 1), "slower"), ((4, 4, 4), "faster")])
def test_the_ratio_to_torch_counts_where_both_have_it(now, verdict):
    old, new = row(**beside(2, 2, 2)), row(ms=spread(9, 9, 9), **beside(*now))
    change = compare.changes(result(old), result(new))[0]
    assert (change["verdict"], change["factor"]) == (verdict, 2 / now[1])


def test_what_came_and_what_went():
    found = compare.changes(result(row("a"), row("b")), result(row("b"), row("c")))
    assert {change["name"]: change["verdict"] for change in found} == {"a": "removed", "b": "≈", "c": "added"}


def written(folder, name, content):
    path = folder / name
    path.write_text(json.dumps(content))
    return str(path)


def test_a_regression_fails_only_above_the_limit(tmp_path):
    old = written(tmp_path, "old.json", result(row()))
    new = written(tmp_path, "new.json", result(row(ms=spread(1.2, 1.3, 1.4))))
    assert compare.main([old, new]) == 0
    assert compare.main([old, new, "--fail-above", "1.5"]) == 0
    assert compare.main([old, new, "--fail-above", "1.2"]) == 3


@pytest.mark.parametrize("field", compare.SAME)
def test_two_machines_are_not_compared(tmp_path, field, capsys):
    old, new = written(tmp_path, "old.json", result()), written(tmp_path, "new.json", result(**{field: "other"}))
    with pytest.raises(SystemExit):
        compare.main([old, new])
    assert f"`{field}` differs" in capsys.readouterr().err


@pytest.mark.parametrize("script", [compare, targets, chart, limits])
def test_another_schema_is_refused(tmp_path, script, capsys):
    other = written(tmp_path, "a.json", copy.deepcopy(result()) | {"schema": 1})
    with pytest.raises(SystemExit):
        script.main([other, other] if script is compare else [other])
    assert "`schema` (=1) must be 2" in capsys.readouterr().err


def test_targets_count_what_met_them_and_name_what_did_not():
    rows = [
        row("met", of_bound=0.6, **beside(1, 1, 1)),
        row("missed", of_bound=0.2, **beside(0.4, 0.5, 0.6)),
        row("far", of_bound=0.1, bound_ms=0.01, **beside(0.9, 0.95, 1.1)),
        row("met.bf16", dtype="bfloat16", ms=spread(1.0, 1.2, 1.3)),
        row("missed.bf16", dtype="bfloat16", ms=spread(1.5, 2.0, 2.5)),
        row("small", group="tiny", ms=spread(0.019, 0.02, 0.021)),
        {"name": "b", "wrong": "no"},
    ]
    assert list(targets.reached(rows)) == [
        "WRONG b: no",
        "  1 of   2  depthwise 2-D, forward: roofline ≥ 0.50; not missed 0.20",
        "  1 of   3  every problem: ≥ 0.97 × the fastest of torch, torch_cl, compile; not missed 0.50, far 0.95",
        "  2 of   3  90% of all: ≥ 1 × the fastest peer, up to the spread; not missed 0.60",
        "  1 of   2  bfloat16: no slower than float32, up to the spread; not missed.bf16 0.73",
        "  0 of   1  tiny, forward: ≤ 10 µs; not small 0.50",
    ]


def test_the_chart_shows_every_row_in_float32(tmp_path):
    rows = [row("a/cf", **beside(2, 2, 2)), row("a/cf.train", mode="training"), row("b/cl.bf16", dtype="bfloat16")]
    path = tmp_path / "figures" / "chart.svg"
    assert chart.main([written(tmp_path, "a.json", result(*rows)), "-o", str(path)]) == 0
    texts = [element.text for element in ET.parse(path).iter() if element.text]  # noqa: S314  # drawn above
    assert {"depthwise 2-D", "a/cf", "a/cf: omniconv 0.50, torch 0.50", "a/cf.train: omniconv 0.50"} <= set(texts)
    assert not any("b/cl" in text for text in texts)


@pytest.mark.skipif(bool(absent()), reason=absent())
def test_limits_are_measured_of_what_is_below_its_share(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(limits, "measure_machine", lambda: MACHINE)
    low = {"of_bound": 0.1, "bound_ms": 1.0}
    rows = [
        row("dw3_112x32/cf", **low),
        row("dw3_112x32/cl.train", mode="training", **low),
        row("pwb_14_384to96/cf.add", group="pointwise", **low),
        row("dw3_14x512/cf", of_bound=0.9, bound_ms=1.0),
    ]
    assert limits.main([written(tmp_path, "a.json", result(*rows)), "--seconds", "0.02"]) == 0
    _, head, forward, training, followed = capsys.readouterr().out.splitlines()
    assert head.split() == ["problem", "roofline", "apart", "kernels", "autograd", "call", "reached", "asked", "meant"]
    lines = zip((forward, training, followed), rows, ("0.50", "0.40", "0.85"), strict=False)
    for line, name, meant in ((line, one["name"], meant) for line, one, meant in lines):
        cells = line.split()
        roofline, apart, kernels, autograd, call = map(float, cells[1:6])
        assert (cells[0], cells[-1]) == (name, meant)
        assert 0 < roofline < apart
        assert kernels > 0
        assert call > 0
        assert autograd >= 0
        assert line is training or autograd == 0
