# SPDX-License-Identifier: Apache-2.0
"""What ``accelerate`` changed, why that is exact, what it left and why, and what it brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from omniconv.analysis.timing import Timing
from omniconv.report.grid import Column, Line, Span, fields, table
from omniconv.report.numbers import digits
from omniconv.report.result import Result
from omniconv.report.words import say

from .proof import Distance


@dataclass(frozen=True)
class Entry:
    """One change.

    Attributes:
        steps: what stood there, by qualified name, or by function.
        layer: the class of what stands there now.
        why: why it computes the same.
        how: what is gained.
        distance: of its result from float64, beside the original's; None where it was not measured.
    """

    steps: tuple[str, ...]
    layer: str
    why: str
    how: str
    distance: Distance | None = None

    @property
    def name(self) -> str:
        """The first and the last step."""
        first, last = self.steps[0], self.steps[-1]
        return first if len(self.steps) == 1 else f"{first} … {last}"


@dataclass(frozen=True, repr=False)
class Report(Result):
    """What was changed and what was not.

    Attributes:
        changes: layers that stand for several steps.
        removed: steps that return what they are given, or the same at each call.
        left: by qualified name, why a convolution or linear map is as it was.
        opaque: by qualified name ("" is the model), why a module is not looked into.
        layout: in which the network computes: ``"in order"`` or ``"channels last"``.
        whole: by the inputs, how far the whole network is from float64, beside the original.
        skipped: by the inputs, why the original does not take them.
        times: seconds of a call with the example, by name: ``before``, ``after``, and layouts that were tried.
        refused: why the network runs as it was, or "".
    """

    changes: tuple[Entry, ...] = ()
    removed: tuple[str, ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)
    opaque: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""
    whole: Mapping[str, Distance] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    times: Mapping[str, Timing] = field(default_factory=dict)
    refused: str = ""

    @property
    def ratio(self) -> float | None:
        """The time before over the time after, the median of what was measured in one round."""
        if "before" not in self.times or "after" not in self.times:
            return None
        pairs = zip(self.times["before"].samples, self.times["after"].samples, strict=True)
        return Timing.of([before / after for before, after in pairs]).median

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "changes": [{"name": entry.name, **asdict(entry)} for entry in self.changes],
            "removed": list(self.removed),
            "left": dict(self.left),
            "opaque": dict(self.opaque),
            "layout": self.layout,
            "whole": {name: asdict(distance) for name, distance in self.whole.items()},
            "skipped": dict(self.skipped),
            "seconds": {name: {k: getattr(t, k) for k in ("median", "q1", "q3")} for name, t in self.times.items()},
            "ratio": self.ratio,
            "refused": self.refused,
        }

    def to_records(self) -> list[dict[str, Any]]:
        return [
            {
                "steps": entry.name,
                "layer": entry.layer,
                "delta": None if entry.distance is None else entry.distance.ours,
                "delta_before": None if entry.distance is None else entry.distance.theirs,
                "why": entry.why,
                "how": entry.how,
            }
            for entry in self.changes
        ]

    def grid(self, lang: str = "en") -> tuple[list[Column], list[tuple[Span, ...]]]:
        columns = [
            Column(say("steps", lang), right=False),
            Column(say("layer", lang), right=False),
            Column("max|Δ|"),
            Column(say("before", lang)),
        ]
        rows = []
        for entry in self.changes:
            found = entry.distance
            sizes = ("", "") if found is None else (f"{found.ours:.1e}", f"{found.theirs:.1e}")
            rows.append((Span(entry.name), Span(entry.layer), *map(Span, sizes)))
        return columns, rows

    def pairs(self, lang: str = "en") -> list[tuple[str, str]]:
        """What is said of the whole, by name."""
        found = [(say("changed", lang), say("changes", lang).format(len(self.changes), len(self.removed)))]
        whys = dict.fromkeys(entry.why for entry in self.changes)
        found += [(say("exact because", lang) if not at else "", why) for at, why in enumerate(whys)]
        if self.refused:
            found.append((say("refused", lang), self.refused))
        found += [(say("left", lang), f"{name}: {why}") for name, why in self.left.items()]
        found += [
            (say("not looked into", lang), f"{name or say('the model', lang)}: {why}")
            for name, why in self.opaque.items()
        ]
        found += [
            (f"max|Δ| {say(name, lang)}", say("from float64", lang).format(*map(_small, (d.ours, d.theirs, d.largest))))
            for name, d in self.whole.items()
        ]
        found += [(say(name, lang), say("not taken", lang).format(why)) for name, why in self.skipped.items()]
        if self.layout:
            found.append((say("layout", lang), say(self.layout, lang)))
        found += [(say(name, lang), f"{_time(timing)}") for name, timing in self.times.items()]
        if self.ratio is not None:
            found.append((say("before / after", lang), f"{digits(self.ratio)}×"))
        return found

    def under(self, lang: str = "en") -> list[str]:
        return [f"{name}: {text}" if name else text for name, text in self.pairs(lang)]

    def lines(self, width: int | None = None, lang: str = "en") -> list[Line]:
        columns, rows = self.grid(lang)
        shown = table(columns, rows, width) if rows else []
        return [*shown, *([()] if shown else []), *fields(self.pairs(lang), width)]


def _small(number: float) -> str:
    return f"{number:.1e}"


def _time(timing: Timing) -> str:
    return f"{1e3 * timing.median:.2f} ms ± {1e3 * timing.iqr / 2:.2f}"
