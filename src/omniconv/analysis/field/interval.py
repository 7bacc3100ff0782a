# SPDX-License-Identifier: Apache-2.0
"""Which input interval each output index depends on along one axis, as a map that repeats itself. It imports no torch.

Receptive fields of convolutional networks repeat: after q outputs the interval has moved by J inputs. q intervals and J
therefore say everything, at every index, inside the image and beyond its border.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd, lcm

Interval = tuple[int, int]

MOST_PHASES = 1 << 13


class StridesDifferError(ValueError):
    """Two maps drift apart, so no interval of constant size holds both."""

    def __init__(self, strides: tuple[Fraction, Fraction]) -> None:
        self.strides = strides
        super().__init__(f"maps of stride {strides[0]} and {strides[1]} have no common hull")


class TooManyPhasesError(ValueError):
    """Sizes so irregular that the map repeats only after thousands of outputs."""


@dataclass(frozen=True)
class Reads:
    """What one operation reads: output ``j`` takes the indices ``reads(j)``, moved by ``jump`` once per period."""

    jump: int
    phases: tuple[range, ...]

    @property
    def period(self) -> int:
        return len(self.phases)

    def __call__(self, index: int) -> range:
        turn, phase = divmod(index, self.period)
        taps, shift = self.phases[phase], turn * self.jump
        return range(taps.start + shift, taps.stop + shift, taps.step)


@dataclass(frozen=True)
class IntervalMap:
    """Output index ``j`` depends on inputs ``lo(j)..hi(j)``, and ``lo(j + q) = lo(j) + jump`` for q = ``len(phases)``.

    A phase is None where the output reads nothing, as between the taps of a transposed convolution whose stride
    exceeds its kernel.
    """

    jump: int
    phases: tuple[Interval | None, ...]

    @classmethod
    def identity(cls) -> IntervalMap:
        return cls(1, ((0, 0),))

    @property
    def period(self) -> int:
        return len(self.phases)

    @property
    def stride(self) -> Fraction:
        """Inputs per output, on average."""
        return Fraction(self.jump, self.period)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Inputs spanned by each phase, 0 for one that reads nothing."""
        return tuple(0 if p is None else p[1] - p[0] + 1 for p in self.phases)

    @property
    def size(self) -> int:
        return max(self.sizes)

    def __call__(self, index: int) -> Interval | None:
        turn, phase = divmod(index, self.period)
        interval, shift = self.phases[phase], turn * self.jump
        return None if interval is None else (interval[0] + shift, interval[1] + shift)

    def through(self, reads: Reads) -> IntervalMap:
        """The map after an operation that reads this one's outputs as ``reads`` says."""
        turns = self.period // gcd(self.period, reads.jump)
        period = reads.period * turns
        if period > MOST_PHASES:
            raise TooManyPhasesError(f"the map repeats only after {period} outputs")
        jump = self.jump * (reads.jump * turns // self.period)
        return _reduced(jump, tuple(self.over(reads(j)) for j in range(period)))

    def over(self, indices: range) -> Interval | None:
        """The hull of the intervals at ``indices``."""
        # After `alike` steps the phase comes round again, shifted one way: both extremes lie among the first and last.
        alike = self.period // gcd(self.period, indices.step)
        ends = indices if len(indices) <= 2 * alike else (*indices[:alike], *indices[-alike:])
        return hull(self(i) for i in ends)

    def hull(self, other: IntervalMap) -> IntervalMap:
        """The smallest map that holds this one and ``other``.

        Raises:
            StridesDifferError: they drift apart.
        """
        if not any(other.phases):
            return self
        if not any(self.phases):
            return other
        if self.stride != other.stride:
            raise StridesDifferError((self.stride, other.stride))
        period = lcm(self.period, other.period)
        if period > MOST_PHASES:
            raise TooManyPhasesError(f"the map repeats only after {period} outputs")
        phases = tuple(hull((self(j), other(j))) for j in range(period))
        return _reduced(self.jump * period // self.period, phases)

    def widened(self, other: IntervalMap, count: int) -> IntervalMap:
        """This map, widened until it holds ``other`` at the first ``count`` indices."""
        phases = list(self.phases)
        for j in range(count):
            turn, phase = divmod(j, self.period)
            found, back = other(j), turn * self.jump
            if found is not None:
                phases[phase] = hull((phases[phase], (found[0] - back, found[1] - back)))
        return _reduced(self.jump, tuple(phases))


def hull(intervals: Iterable[Interval | None]) -> Interval | None:
    """The smallest interval that holds all; None stands for the empty one."""
    present = [i for i in intervals if i is not None]
    return (min(lo for lo, _ in present), max(hi for _, hi in present)) if present else None


def join(first: IntervalMap, second: IntervalMap, count: int) -> tuple[IntervalMap, bool]:
    """The hull of two branches over ``count`` outputs, and whether it is only an upper bound.

    Branches whose sizes do not divide (65 halved to 33 and resized to 65) drift apart by less than one step over the
    whole map. They are held by a map with the simpler rhythm; larger drift is a mistake in the network.

    Raises:
        StridesDifferError: the branches drift apart.
    """
    try:
        return first.hull(second), False
    except StridesDifferError:
        apart, widest = abs(first.stride - second.stride), max(abs(first.stride), abs(second.stride))
        if count > 1 and (apart * (count - 1) > widest or 3 * apart > widest):
            raise
        one, two = sorted((first, second), key=lambda m: m.period)
        return one.widened(two, count), True


def _reduced(jump: int, phases: tuple[Interval | None, ...]) -> IntervalMap:
    """The same map with the shortest period."""
    period = len(phases)
    if not any(phases):
        return IntervalMap(0, (None,))
    for short in range(1, period):
        if period % short or jump * short % period:
            continue
        whole = IntervalMap(jump * short // period, phases[:short])
        if all(whole(j) == phases[j] for j in range(short, period)):
            return whole
    return IntervalMap(jump, phases)
