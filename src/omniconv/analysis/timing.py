# SPDX-License-Identifier: Apache-2.0
"""Timing candidates side by side, so that what disturbs one disturbs all.

A machine drifts by tens of percent within a minute. Candidates are therefore timed in rounds, each once per round, and
compared within the round; a spread stands beside every number, and numbers whose spreads overlap are not ranked apart.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], float]

# An interquartile range above this share of the median says more about the machine than about the candidate.
NOISY = 0.2
# Fewer samples than this have no quartiles to speak of.
FEWEST = 3
# Repeats within one sample stop growing here, should the clock stand still.
MOST_REPEATS = 1_000_000


@dataclass(frozen=True)
class Timing:
    """One time measured repeatedly, or one ratio of times: its median between its quartiles."""

    median: float
    q1: float
    q3: float
    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """From at least one sample."""
        if not samples:
            raise ValueError("`samples` is empty; give at least one.")
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0], tuple(samples))
        q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, q1, q3, tuple(samples))

    @property
    def iqr(self) -> float:
        """The interquartile range, q3 − q1."""
        return self.q3 - self.q1

    @property
    def noisy(self) -> bool:
        """Whether this is too uncertain to rank: spread too far, or sampled too seldom to know."""
        return len(self.samples) < FEWEST or self.iqr > NOISY * self.median


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 1.0,
    sample_seconds: float = 1e-3,
    max_rounds: int = 101,
    settle_seconds: float = 0.0,
    synchronize: Callable[[], object] | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, Timing]:
    """Time several calls in rounds that take each of them once.

    Each call is first warmed up, and repeated within one sample until the sample lasts `sample_seconds`; a call that
    lasts longer makes a sample by itself. Odd rounds go through the calls backwards, so that nobody always follows the
    same neighbour.

    Args:
        calls: What to time, by name.
        seconds: For all calls together, warm-up included. Three rounds are taken even where that takes longer.
        sample_seconds: The least length of a sample: far above the resolution of the clock.
        max_rounds: Enough rounds, however much time is left.
        settle_seconds: How long a call runs untimed before each of its samples. Libraries with threads of their own
            keep them spinning for up to 20 ms after a call, on the cores that the next candidate needs.
        synchronize: Waits until the device has finished (see `synchronizer`); None where calls return finished.
        clock: Seconds, monotonic.

    Returns:
        The seconds per call of each, with one sample per round: sample i of all names comes from the same round.
    """
    if not seconds > 0:
        raise ValueError(f"`seconds` (={seconds}) must be positive; use 1.0.")
    if not sample_seconds > 0:
        raise ValueError(f"`sample_seconds` (={sample_seconds}) must be positive; use 1e-3.")
    if max_rounds < FEWEST:
        raise ValueError(f"`max_rounds` (={max_rounds}) must be at least {FEWEST}; use {FEWEST}.")
    wait = synchronize or _nothing
    end = clock() + seconds
    with _no_garbage_collection():
        repeats = {name: _warm_up(call, sample_seconds, wait, clock) for name, call in calls.items()}
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for taken in range(max_rounds if calls else 0):
            begin = clock()
            for name in list(calls)[:: -1 if taken % 2 else 1]:
                _settle(calls[name], settle_seconds, wait, clock)
                samples[name].append(_sample(calls[name], repeats[name], wait, clock))
            now = clock()
            if taken + 1 >= FEWEST and now + (now - begin) > end:
                break
    return {name: Timing.of(found) for name, found in samples.items()}


def ratios(timings: Mapping[str, Timing], baseline: str) -> dict[str, Timing]:
    """Each candidate's time over the baseline's, round by round: drift that both share cancels."""
    if baseline not in timings:
        raise ValueError(f"`baseline` (={baseline!r}) was not timed; use one of {', '.join(timings)}.")
    base = timings[baseline].samples
    return {
        name: Timing.of([mine / its for mine, its in zip(timing.samples, base, strict=True)])
        for name, timing in timings.items()
    }


@dataclass(frozen=True)
class Ranking:
    """Names from fast to slow in groups. Two names whose intervals overlap never stand in different groups."""

    groups: tuple[tuple[str, ...], ...]
    noisy: tuple[str, ...]

    def mark(self, name: str) -> str:
        """What to print beside a time: `noisy`, `≈` for one of several that are not ranked apart, or nothing."""
        if name in self.noisy:
            return "noisy"
        return "≈" if any(name in group and len(group) > 1 for group in self.groups) else ""


def rank(timings: Mapping[str, Timing]) -> Ranking:
    """Rank by median, in groups that do not overlap; what is noisy is not ranked at all."""
    noisy = tuple(name for name, timing in timings.items() if timing.noisy)
    groups: list[list[str]] = []
    reach = float("-inf")
    for name in sorted(timings.keys() - noisy, key=lambda name: (timings[name].q1, timings[name].median)):
        if timings[name].q1 > reach:
            groups.append([])
        groups[-1].append(name)
        reach = max(reach, timings[name].q3)
    ordered = (tuple(sorted(group, key=lambda name: timings[name].median)) for group in groups)
    return Ranking(tuple(ordered), noisy)


def synchronizer(device: str) -> Callable[[], object] | None:
    """What `interleaved` must wait with on a device: nothing on the CPU, whose calls return finished."""
    import torch

    if torch.device(device).type in {"cpu", "meta"}:
        return None
    return lambda: torch.accelerator.synchronize(device)


def _warm_up(call: Callable[[], object], sample_seconds: float, wait: Callable[[], object], clock: Clock) -> int:
    # The first call allocates, compiles and packs: its length says nothing about the others.
    _sample(call, 1, wait, clock)
    repeats = 1
    while (each := _sample(call, repeats, wait, clock)) * repeats < sample_seconds and repeats < MOST_REPEATS:
        wanted = sample_seconds / each if each > 0 else MOST_REPEATS
        repeats = int(min(max(2 * repeats, wanted), 10 * repeats, MOST_REPEATS))
    return repeats


def _sample(call: Callable[[], object], repeats: int, wait: Callable[[], object], clock: Clock) -> float:
    wait()
    begin = clock()
    for _ in range(repeats):
        call()
    wait()
    return (clock() - begin) / repeats


def _settle(call: Callable[[], object], seconds: float, wait: Callable[[], object], clock: Clock) -> None:
    end = clock() + seconds
    while clock() < end:
        call()
    wait()


def _nothing() -> None:
    """Wait for nobody."""


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
