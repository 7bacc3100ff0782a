# SPDX-License-Identifier: Apache-2.0
"""A time is printed only behind a right answer; two results are compared only where that means something."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import compare
import run
from omniconv.analysis.machine import Machine
from omniconv.core.family import families, settings
from problems import Benchmark, benchmarks

MACHINE = Machine("assumed", "cpu", "float32", 1, "2.13.0", 1e11, ((1e6, 4e10),))


def small():
    return min((b for b in benchmarks() if not b.empty), key=lambda b: b.family.cost(b.problem).macs)


def test_every_setting_and_every_case_is_there():
    cases = sum(len(family.cases) for family in families().values())
    assert len(list(benchmarks())) == len(settings()) + cases
    assert {b.problem.family for b in benchmarks()} == set(families())


def test_every_answer_that_is_timed_is_right():
    for benchmark in benchmarks():
        if benchmark.empty or benchmark.name.endswith("(layer)"):
            continue
        tensors = benchmark.tensors(torch.float32, "cpu")
        calls = {"ours": benchmark.ours(tensors), "torch": benchmark.torchs(tensors)}
        said = [run.wrong(name, call(), benchmark.reference(tensors)) for name, call in calls.items() if call]
        assert not any(said), (benchmark, said)


def test_torch_stands_beside_whatever_it_has():
    beside = [b.torchs(b.tensors(torch.float32, "cpu")) is not None for b in benchmarks()]
    assert any(beside)


def test_a_row_holds_what_the_result_file_promises():
    row = run.measure(small(), MACHINE, 0.001)
    assert {"family", "name", "problem", "ms", "noisy", "bound_ms", "binds", "of_bound"} <= set(row)
    assert row["of_bound"] == pytest.approx(row["bound_ms"] / row["ms"]["median"])
    assert row["name"] in run.line(row)


def test_a_wrong_answer_gets_no_time(monkeypatch):
    right = Benchmark.ours
    monkeypatch.setattr(Benchmark, "ours", lambda self, tensors: lambda: right(self, tensors)() * 1.001)
    row = run.measure(small(), MACHINE, 0.001)
    assert "elements are wrong" in row["wrong"]
    assert "ms" not in row
    assert "WRONG" in run.line(row)


def test_the_whole_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run, "measure_machine", lambda *_: MACHINE)
    path = tmp_path / "deep" / "result.json"
    assert run.main([str(small().problem), "--seconds", "0.001", "-o", str(path)]) == 0
    written = json.loads(path.read_text())
    assert written["schema"] == 1
    assert written["machine"]["peak"] == 1e11
    assert [row["problem"] for row in written["rows"]] == [str(small().problem)]
    assert str(small().problem) in capsys.readouterr().out
    assert compare.main([str(path), str(path), "--fail-above", "1.0"]) == 0


@pytest.mark.parametrize("arguments", [["nothing-like-this"], ["--dtype", "int8"], ["--threads", "0"]])
def test_bad_arguments_are_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments)
    assert stopped.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


def spread(q1, median, q3):
    return {"median": median, "q1": q1, "q3": q3, "samples": 9}


def row(name="a", **fields):
    return {"name": name, "problem": "p", "ms": spread(0.9, 1.0, 1.1), "noisy": False} | fields


def result(*rows, **machine):
    about = {"schema": 1, "version": "0", "commit": "0"}
    return about | {"machine": MACHINE.to_dict() | machine, "rows": list(rows)}


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        (row(ms=spread(1.0, 1.15, 1.2)), "≈"),
        (row(ms=spread(1.2, 1.3, 1.4)), "slower"),
        (row(ms=spread(0.6, 0.7, 0.8)), "faster"),
        (row(ms=spread(1.2, 1.3, 1.4), noisy=True), "noisy"),
        ({"name": "a", "problem": "p", "wrong": "x"}, "wrong"),
        ({"name": "a", "problem": "p", "skipped": "x"}, "changed"),
    ],
)
def test_verdicts(new, verdict):
    assert [change["verdict"] for change in compare.changes(result(row()), result(new))] == [verdict]


def test_the_ratio_to_torch_counts_where_both_have_it():
    old, new = row(over_torch=spread(0.5, 0.5, 0.5)), row(ms=spread(9, 9, 9), over_torch=spread(0.5, 0.5, 0.5))
    assert compare.changes(result(old), result(new))[0]["verdict"] == "≈"


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


def test_another_schema_is_refused(tmp_path):
    other = copy.deepcopy(result()) | {"schema": 2}
    with pytest.raises(SystemExit):
        compare.main([written(tmp_path, "a.json", result()), written(tmp_path, "b.json", other)])
