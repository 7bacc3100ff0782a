# SPDX-License-Identifier: Apache-2.0
"""``compare`` with times: nothing wrong is timed, nothing noisy ranked, and what is said follows from the numbers."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import omniconv
from omniconv.analysis.comparison.result import Measured
from omniconv.analysis.comparison.text import readings
from omniconv.analysis.comparison.verify import complaint
from omniconv.analysis.timing import Timing
from omniconv.core import register
from omniconv.core.choose import choose
from omniconv.core.family import families, settings
from omniconv.core.problem import ConvProblem


@pytest.fixture
def clock(monkeypatch):
    """Every call is run once, and takes as many milliseconds as the test says."""
    lasting = {}

    def interleaved(calls, **options):
        found = {}
        for name, call in calls.items():
            call()
            ms = lasting.get(name.split(":")[1].split("_", 4)[-1], lasting.get(name.split(":")[0], (1.0, 1.1, 1.2)))
            found[name] = Timing.of([1e-3 * value for value in ms])
        return found

    monkeypatch.setattr("omniconv.analysis.comparison.measure.interleaved", interleaved)
    return lasting


def test_every_layer_is_checked_bounded_and_timed(machine, clock):
    said = []
    found = omniconv.compare(4, 8, 6, heads=2, time=True, report=said.append)
    assert found.wrong == ()
    assert found.machine["peak"] == 1e11
    assert {row.family for row in found.rows} == set(settings())
    for row in found.rows:
        measured = row.measured
        assert measured.time_ms == pytest.approx(1.1)
        assert measured.time_ratio == pytest.approx(1.0)
        assert measured.bound_ms == pytest.approx(sum(part.bound_ms for part in row.parts))
        assert measured.of_bound == pytest.approx(measured.bound_ms / 1.1)
        assert measured.tied
        assert not measured.noisy
    assert sum(text.startswith("checking") for text in said) == len(
        {str(r.problem) for r in found.rows} | {str(r.standard) for r in found.rows}
    )


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dimensions_and_dtypes(machine, clock, monkeypatch, dim, dtype):
    made = dataclasses.replace(machine, dtype=dtype)
    monkeypatch.setattr("omniconv.analysis.comparison.measure.measure_machine", lambda *a, **k: made)
    found = omniconv.compare(4, 4, 5, dim=dim, heads=2, groups=2, dtype=dtype, channels_last=True, time=True)
    assert found.wrong == ()
    assert all(row.measured.time_ms for row in found.rows if row.available)


def test_bound_is_the_roofline_step_by_step(machine, clock):
    row = omniconv.compare(64, 128, 56, only="depthwise-separable", time=True).rows[0]
    flops, moved = (2 * 1_806_336, 2 * 25_690_112), (4 * (2 * 200_704 + 576), 4 * (200_704 + 8_192 + 401_408))
    expected = [max(f / 1e11, b / 1e10) for f, b in zip(flops, moved, strict=True)]
    assert row.measured.bound_ms == pytest.approx(1e3 * sum(expected))
    assert [part.bound_by for part in row.parts] == ["memory", "compute"]
    assert row.measured.bound_by == "mixed"


def test_intervals_decide_what_is_ranked(machine, clock):
    clock |= {"k3x3_pad1": (10, 10, 10.1), "k3x3_g4_pad1": (4, 4.1, 4.2), "k1x1": (4.1, 4.2, 4.3)}
    clock |= {"k3x3_d2x2_pad2": (1, 9, 20)}
    found = omniconv.compare(64, 128, 9, only=["standard", "grouped", "pointwise", "dilated"], time=True)
    rows = {row.family: row.measured for row in found.rows}
    assert [rows[name].tied for name in ("standard", "grouped", "pointwise")] == [False, True, True]
    assert rows["dilated"].noisy
    assert not rows["dilated"].tied
    assert rows["grouped"].time_ratio == pytest.approx(0.41)
    text = repr(found)
    assert "≈" in text
    assert "noisy" in text


def test_times_sort_and_noise_goes_last(machine, clock):
    clock |= {"k3x3_pad1": (10, 10, 10.1), "k3x3_g4_pad1": (4, 4.1, 4.2), "k3x3_d2x2_pad2": (1, 2, 20)}
    found = omniconv.compare(64, 128, 9, only=["standard", "grouped", "dilated"], time=True, sort="time")
    assert [row.family for row in found.rows] == ["grouped", "standard", "dilated"]


def test_where_time_and_counts_part_is_said(machine, clock):
    clock |= {"k3x3_pad1": (10, 10, 10.1), "depthwise_separable": (20, 20, 20.1), "k3x3_g4_pad1": (5, 5, 5.1)}
    found = omniconv.compare(64, 128, 9, only=["standard", "grouped", "depthwise-separable"], time=True)
    first, second = readings(found)
    assert first.startswith("depthwise-separable has 8.4× fewer MACs than standard but is 2.0× slower:")
    assert second.startswith("grouped has 4.0× fewer MACs than standard but is only 2.0× faster:")
    assert "read: depthwise-separable" in repr(found)
    assert readings(dataclasses.replace(found, rows=found.rows[:1])) == []


def test_a_bound_that_was_broken_is_called_none(machine, clock):
    clock |= {"k3x3_pad1": (1, 1, 1.1), "k3x3_g4_pad1": (0.9, 0.9, 0.91)}
    found = omniconv.compare(64, 128, 56, only=["standard", "grouped"], time=True)
    text = repr(found)
    assert found.rows[0].measured.of_bound > 1
    assert "no bound, because the machine was busier while it was measured: standard, grouped" in text
    assert "grouped has 4.0× fewer MACs than standard but is only 1.1× faster." in text


def test_memory_is_named_where_it_bounds(machine, clock):
    found = omniconv.compare(64, 128, 56, only=["standard", "depthwise"], time=True)
    row = next(row for row in found.rows if row.family == "depthwise")
    slow = dataclasses.replace(row.measured, time_ms=2 * row.measured.bound_ms, time_ratio=0.5)
    found = dataclasses.replace(found, rows=(dataclasses.replace(row, measured=slow),))
    assert readings(found)[0].endswith("memory bounds its convolution.")
    small = dataclasses.replace(slow, bound_ms=0.001, time_ms=0.019)
    found = dataclasses.replace(found, rows=(dataclasses.replace(row, measured=small),))
    assert readings(found)[0].endswith("at this size the call costs more than the work.")
    long = dataclasses.replace(small, time_ms=0.8)
    found = dataclasses.replace(found, rows=(dataclasses.replace(row, measured=long),))
    name = choose(row.problem).kernel.name
    assert f"so kernel {name!r} is the limit" in readings(found)[0]
    kernel = dataclasses.replace(slow, time_ms=20 * row.measured.bound_ms)
    found = dataclasses.replace(found, rows=(dataclasses.replace(row, measured=kernel),))
    assert f"5.0% of the machine's bound, so kernel {name!r} is the limit" in readings(found)[0]


def test_a_wrong_kernel_is_not_timed(call, machine, clock, monkeypatch):
    function, operator, _ = register._KERNELS["conv", "direct"]
    compiled = register._NATIVE["conv", "native"]
    right = compiled.call
    monkeypatch.setitem(register._KERNELS, ("conv", "direct"), (lambda *a: function(*a) * 1.001, operator, None))
    monkeypatch.setattr(compiled, "call", lambda *a: right(*a) * 1.001)
    result = call("compare 4 8 6 --only grouped,transposed --heads 2 --time --json")
    assert result.exit_code == 3
    assert "differs from the formula" in result.stderr
    grouped, transposed = json.loads(result.stdout)["rows"]
    assert grouped["time_ms"] is None
    assert grouped["bound_ms"] > 0
    assert transposed["time_ms"] > 0
    assert transposed["time_ratio"] is None
    text = call("compare 4 8 6 --only grouped,transposed --heads 2 --time --format human").stdout
    assert "wrong: grouped: conv:" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: y + 1, "not what its last convolution computed"),
        (lambda y: y[:, :, 1:], "has shape"),
        (lambda y: y * float("nan"), "not finite"),
    ],
)
def test_what_a_layer_does_to_its_answer_is_seen(change, said):
    problem = ConvProblem.parse("conv:n1_c3_o4_i6x6_k3x3_pad1")
    layer = families()["conv"].layer_of(problem)
    input = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        assert complaint(layer, input, problem) == ""
        layer.register_forward_hook(lambda module, given, y: change(y))
        assert said in complaint(layer, input, problem)


def test_a_module_without_convolutions_proves_nothing():
    problem = ConvProblem.parse("conv:n1_c3_o3_i6x6_k3x3_pad1")
    assert "nothing could be checked" in complaint(torch.nn.Identity(), torch.randn(1, 3, 6, 6), problem)


def test_a_large_problem_is_checked_on_a_part(monkeypatch):
    problem = ConvProblem.parse("conv:n4_c8_o8_i64x64_k3x3_pad1")
    layer = families()["conv"].layer_of(problem)
    seen = []
    reference = families()["conv"].part("reference")
    honest = reference.reference
    monkeypatch.setattr(reference, "reference", lambda p, *t: seen.append(p) or honest(p, *t))
    monkeypatch.setattr("omniconv.analysis.comparison.verify.MOST_MACS", 100_000)
    with torch.no_grad():
        assert complaint(layer, torch.randn(4, 8, 64, 64), problem) == ""
    assert seen[0].batch == 1
    assert families()["conv"].cost(seen[0]).macs <= 100_000


def test_a_layer_that_cannot_run_says_why(machine, clock, monkeypatch):
    def refuse(problem, device=None, dtype=None):
        raise NotImplementedError("no such kernel\nat all")

    monkeypatch.setattr(families()["lightweight"].part("layer"), "from_problem", refuse)
    found = omniconv.compare(4, 4, 6, heads=2, only=["standard", "lightweight"], time=True)
    assert found.wrong == ("lightweight: not run: no such kernel",)
    assert found.rows[0].measured.time_ms is not None


def test_threads_and_random_numbers_are_put_back(machine, clock, monkeypatch):
    two = dataclasses.replace(machine, threads=2)
    monkeypatch.setattr("omniconv.analysis.comparison.measure.measure_machine", lambda *a, **k: two)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    omniconv.compare(4, 4, 6, only="standard", threads=2, time=True)
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_the_command_warns_of_noise(call, machine, clock, monkeypatch):
    noisy = dataclasses.replace(machine, noise=0.5)
    monkeypatch.setattr("omniconv.analysis.comparison.measure.measure_machine", lambda *a, **k: noisy)
    assert "warning: this machine is noisy" in call("compare 4 8 6 --only standard --time -q").stderr
    clock |= {"k3x3_pad1": (1, 9, 20)}
    assert "warning: too noisy to rank: standard." in call("compare 4 8 6 --only standard --time -q").stderr


def test_of_bound_needs_a_time():
    assert Measured(1.0, "compute").of_bound is None
    assert Measured(1.0, "compute", 4.0).of_bound == 0.25


def test_wrong_seconds(machine):
    with pytest.raises(ValueError, match="`seconds`"):
        omniconv.compare(4, 4, 6, time=True, seconds=0)


class TestForms:
    @pytest.fixture
    def found(self, machine, clock):
        return omniconv.compare(4, 8, 6, heads=2, time=True)

    def test_html(self, found):
        shown = found._repr_html_()
        assert shown.count("<tr>") == 12
        assert "<script" not in shown
        assert shown.count("<svg") == 22

    def test_no_value_is_lost_on_a_narrow_screen(self, found):
        from omniconv.report.grid import cells, plain

        for width in (60, 80, 100):
            text = plain(found.lines(width))
            assert max(map(cells, text.split("\n"))) <= width
            assert text.count("1.10") >= 11

    def test_pandas_and_matplotlib_are_asked_for_by_name(self, found, monkeypatch):
        import sys

        for name in ("pandas", "matplotlib", "matplotlib.pyplot"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match="pip install pandas"):
            found.to_pandas()
        with pytest.raises(ImportError, match="pip install matplotlib"):
            found.plot()

    def test_file(self, found, tmp_path):
        path = found.html(tmp_path / "a.html")
        with pytest.raises(FileExistsError):
            found.html(path)
        assert found.html(path, overwrite=True).read_text().startswith("<!doctype html>")
