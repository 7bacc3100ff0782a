# SPDX-License-Identifier: Apache-2.0
"""Timing by a clock that the test turns by hand: no test here depends on the speed of the machine."""

from __future__ import annotations

import gc

import pytest

from omniconv.analysis.timing import Timing, interleaved, rank, ratios, synchronizer


class Workshop:
    """Calls of known length, and the clock that they turn."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def clock(self):
        return self.now

    def call(self, name, seconds):
        lengths = iter(seconds) if isinstance(seconds, list) else None

        def run():
            self.log.append(name)
            self.now += next(lengths) if lengths else seconds

        return run


@pytest.fixture
def workshop():
    return Workshop()


def timing(q1, median, q3):
    return Timing(median, q1, q3, (q1, median, q3))


def test_seconds_per_call_whatever_the_repeats(workshop):
    calls = {"short": workshop.call("short", 3e-5), "long": workshop.call("long", 0.02)}
    found = interleaved(calls, seconds=0.5, clock=workshop.clock)
    assert found["short"].median == pytest.approx(3e-5)
    assert found["long"].median == pytest.approx(0.02)
    assert len(found["short"].samples) == len(found["long"].samples) >= 3


def test_a_sample_lasts_a_millisecond_or_one_call(workshop):
    interleaved({"a": workshop.call("a", 3e-5), "b": workshop.call("b", 0.5)}, seconds=1, clock=workshop.clock)
    runs = "".join(workshop.log).split("b")
    assert max(map(len, runs)) * 3e-5 >= 1e-3
    assert "bb" in "".join(workshop.log)
    assert workshop.log.count("b") == 5


def test_a_call_settles_untimed_before_each_sample(workshop):
    lengths = [0.01, 0.01, *(part for _ in range(3) for part in (0.02, 0.02, 0.005))]
    found = interleaved({"a": workshop.call("a", lengths)}, seconds=0.001, settle_seconds=0.03, clock=workshop.clock)
    assert found["a"].samples == pytest.approx([0.005] * 3)


def test_rounds_go_back_and_forth_through_all_candidates(workshop):
    names = "abc"
    interleaved({name: workshop.call(name, 0.01) for name in names}, seconds=0.001, clock=workshop.clock)
    assert "".join(workshop.log) == "aabbcc" + "abc" + "cba" + "abc"


def test_budget_holds_for_all_together(workshop):
    interleaved({str(i): workshop.call(i, 0.01) for i in range(4)}, seconds=2, max_rounds=999, clock=workshop.clock)
    assert 1.9 < workshop.now <= 2.0


def test_rounds_are_limited(workshop):
    found = interleaved({"a": workshop.call("a", 0.01)}, seconds=99, max_rounds=7, clock=workshop.clock)
    assert len(found["a"].samples) == 7


def test_a_slow_first_call_is_no_sample(workshop):
    found = interleaved({"a": workshop.call("a", [9.0] + [0.01] * 99)}, seconds=0.2, clock=workshop.clock)
    assert max(found["a"].samples) == pytest.approx(0.01)


def test_a_clock_that_stands_still_ends(workshop):
    found = interleaved({"a": lambda: None}, max_rounds=3, clock=workshop.clock)
    assert found["a"].median == 0


def test_device_is_waited_for_inside_the_sample(workshop):
    pending = []

    def finish():
        workshop.now += len(pending) * 0.01
        pending.clear()

    found = interleaved({"a": lambda: pending.append(1)}, seconds=0.1, synchronize=finish, clock=workshop.clock)
    assert found["a"].median == pytest.approx(0.01)
    assert not pending


def test_ratios_are_taken_within_each_round():
    found = ratios({"slow": Timing.of([2.0, 30.0, 8.0]), "fast": Timing.of([1.0, 10.0, 8.0])}, "fast")
    assert found["slow"].samples == (2.0, 3.0, 1.0)
    assert (found["slow"].q1, found["slow"].median, found["slow"].q3) == (1.5, 2.0, 2.5)
    assert found["fast"].samples == (1.0, 1.0, 1.0)


def test_quartiles():
    found = Timing.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found.q1, found.median, found.q3, found.iqr) == (2.0, 3.0, 4.0, 2.0)


def test_noisy_above_a_fifth_and_below_three_samples():
    assert timing(0.85, 1.0, 1.06).noisy
    assert not timing(0.9, 1.0, 1.09).noisy
    assert Timing.of([1.0, 1.0]).noisy
    assert not Timing.of([1.0, 1.0, 1.0]).noisy


def test_ranking_keeps_together_what_overlaps():
    found = rank(
        {
            "late": timing(5.0, 5.1, 5.2),
            "b": timing(1.05, 1.10, 1.15),
            "a": timing(1.0, 1.02, 1.06),
            "c": timing(1.14, 1.18, 1.2),
            "early": timing(0.5, 0.5, 0.5),
            "lost": timing(0.1, 1.0, 9.0),
        }
    )
    assert found.groups == (("early",), ("a", "b", "c"), ("late",))
    assert found.noisy == ("lost",)
    assert [found.mark(name) for name in ("early", "b", "lost")] == ["", "≈", "noisy"]


def test_a_wide_interval_joins_what_lies_inside_it():
    found = rank({"wide": timing(1.0, 1.15, 1.2), "in": timing(1.02, 1.03, 1.04), "after": timing(1.19, 1.2, 1.21)})
    assert found.groups == (("in", "wide", "after"),)


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collection_is_left_as_found(workshop, collecting):
    def fail():
        assert not gc.isenabled()
        raise OSError

    before = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(OSError, match=r"^$"):
            interleaved({"a": fail}, clock=workshop.clock)
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_nothing_to_time():
    assert interleaved({}) == {}


@pytest.mark.parametrize(
    "wrong", [{"seconds": 0}, {"seconds": float("nan")}, {"sample_seconds": -1}, {"max_rounds": 2}]
)
def test_refuses(wrong):
    with pytest.raises(ValueError, match=rf"`{next(iter(wrong))}` \(=.*use "):
        interleaved({"a": list}, **wrong)


def test_refuses_an_unknown_baseline_and_no_samples():
    with pytest.raises(ValueError, match=r"`baseline` \(='z'\) was not timed; use one of a\."):
        ratios({"a": timing(1, 1, 1)}, "z")
    with pytest.raises(ValueError, match="`samples` is empty"):
        Timing.of([])


def test_the_cpu_is_not_waited_for():
    assert synchronizer("cpu") is None
    assert callable(synchronizer("cuda:0"))
