# SPDX-License-Identifier: Apache-2.0
"""What benchmarks found: one row per problem, with its time beside the roofline and beside every peer's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from omniconv.analysis.benchmark.peers import PEERS, TORCH
from omniconv.analysis.benchmark.problems import Benchmark
from omniconv.analysis.comparison.text import machine_text
from omniconv.analysis.machine import Bound
from omniconv.analysis.timing import Timing
from omniconv.report.grid import Column, Line, Span, table, wrapped
from omniconv.report.numbers import digits, percent
from omniconv.report.result import Result
from omniconv.report.words import say

SCHEMA = 2
# A convolution must be at least this many times as fast as the fastest way to compute it with torch alone.
NEVER_SLOWER = 0.97
# More problems than this without a peer's time are counted, not named.
NAMED = 4
UNBOUNDED = Bound(0.0, "compute")


@dataclass(frozen=True)
class Spread:
    """The median of a number measured repeatedly, between its quartiles."""

    median: float
    q1: float
    q3: float
    samples: int

    @classmethod
    def of(cls, timing: Timing, scale: float = 1.0) -> Spread:
        """What is kept of a timing."""
        return cls(timing.median * scale, timing.q1 * scale, timing.q3 * scale, len(timing.samples))


@dataclass(frozen=True)
class Beside:
    """A peer's time, and how many times faster omniconv is, compared within each round; or why it has none."""

    ms: Spread | None = None
    speedup: Spread | None = None
    why: str = ""


@dataclass(frozen=True)
class Row:
    """One benchmark.

    Attributes:
        benchmark: what was run.
        kernel: what omniconv's chooser picked.
        ms: milliseconds a call; None where the answer is wrong.
        noisy: whether it is spread too far to rank.
        wrong: what is wrong with omniconv's answer, or "".
        peers: by name.
        bound: the machine's roofline.
    """

    benchmark: Benchmark
    kernel: str
    ms: Spread | None = None
    noisy: bool = False
    wrong: str = ""
    peers: dict[str, Beside] = field(default_factory=dict)
    bound: Bound = UNBOUNDED

    @property
    def of_bound(self) -> float | None:
        """The share of the machine's roofline that is reached."""
        return None if self.ms is None else 1e3 * self.bound.seconds / self.ms.median

    def least(self, *names: str) -> tuple[str, Spread] | None:
        """The fastest of some peers, and how many times faster omniconv is; None where none was timed."""
        timed = [(name, self.peers[name].speedup) for name in names if name in self.peers]
        found = [(name, speedup) for name, speedup in timed if speedup is not None]
        return min(found, key=lambda pair: pair[1].median) if found else None

    def __str__(self) -> str:
        if self.ms is None:
            return f"{self.benchmark.name} WRONG {self.wrong}"
        fastest = self.least(*self.peers)
        beside = f", {digits(fastest[1].median)}× {fastest[0]}" if fastest else ""
        return f"{self.benchmark.name} {digits(self.ms.median)} ms{beside}"


@dataclass(frozen=True, repr=False)
class Bench(Result):
    """Benchmarks that were run, the machine they ran on, and with what."""

    rows: tuple[Row, ...]
    machine: dict[str, Any]
    version: str
    versions: dict[str, str]
    options: dict[str, Any]
    commit: str = ""

    @property
    def wrong(self) -> list[str]:
        """The problems that omniconv computes wrong."""
        return [f"{row.benchmark.name}: {row.wrong}" for row in self.rows if row.wrong]

    def to_dict(self) -> dict[str, Any]:
        about = {"schema": SCHEMA, "version": self.version, "commit": self.commit, "versions": self.versions}
        return about | {"options": self.options, "machine": self.machine, "rows": [_facts(row) for row in self.rows]}

    def to_records(self) -> list[dict[str, Any]]:
        return [_flat(row, self.options["peers"]) for row in self.rows]

    def lines(self, width: int | None = None, lang: str = "en") -> list[Line]:
        columns, cells = self.grid(lang)
        notes = (((Span(text, "note"),)) for said in self.under(lang) for text in wrapped(said, width))
        return [(Span(machine_text(self.machine, lang), "label"),), (), *table(columns, cells, width), (), *notes]

    def grid(self, lang: str = "en") -> tuple[list[Column], list[tuple[Span, ...]]]:
        peers = self.options["peers"]
        columns = [
            Column(say("problem", lang), right=False),
            Column("mode", right=False),
            Column(f"{say('time', lang)} ms"),
            Column("±", right=False),
            *(Column(f"× {name}", block=1) for name in peers),
            Column(f"{say('bound', lang)} ms", block=2),
            Column(say("by", lang), right=False, block=2),
            Column(say("of bound", lang), block=2),
            Column(say("kernel", lang), right=False, block=2),
        ]
        return columns, [_cells(row, peers) for row in self.rows]

    def under(self, lang: str = "en") -> list[str]:
        torch_alone = [(row, found) for row in self.rows if (found := row.least(*TORCH))]
        every = [(row, found) for row in self.rows if (found := row.least(*row.peers))]
        peers = [f"{name} {self.versions[name]} ({PEERS[name].summary})" for name in self.options["peers"]]
        said = [say("legend bench", lang), f"{say('peers', lang)}: {', '.join(peers) or say('none', lang)}"]
        if torch_alone:
            held = [found[1].median >= NEVER_SLOWER for _, found in torch_alone]
            said.append(f"≥ {NEVER_SLOWER} × {say('fastest torch', lang)}: {_held(held, torch_alone, lang)}")
        if every:
            held = [found[1].q3 >= 1 for _, found in every]
            said.append(f"{say('fastest of all', lang)}: {_held(held, every, lang)}")
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            for name, beside in row.peers.items():
                if beside.why:
                    reasons.setdefault(f"{name}: {beside.why}", []).append(row.benchmark.name)
        said += [
            f"– {why}: {', '.join(names) if len(names) <= NAMED else len(names)}" for why, names in reasons.items()
        ]
        return said + [f"{say('wrong', lang)}: {text}" for text in self.wrong]


def _held(held: list[bool], beside: list[tuple[Row, tuple[str, Spread]]], lang: str) -> str:
    """On how many rows something held, and the row that was farthest from it."""
    row, (name, speedup) = min(beside, key=lambda pair: pair[1][1].median)
    worst = f"{row.benchmark.name} {speedup.median:.2f} × {name}"
    return f"{sum(held)} / {len(held)}; {say('least', lang)} {worst}"


def _cells(row: Row, peers: list[str]) -> tuple[Span, ...]:
    name, mode = Span(row.benchmark.name), Span(row.benchmark.mode)
    if row.ms is None:
        return name, mode, Span("wrong", "bad"), *(Span("") for _ in range(len(peers) + 4)), Span(row.kernel)
    share = row.of_bound or 0.0
    return (
        name,
        mode,
        Span(digits(row.ms.median), "time"),
        Span(
            f"±{digits((row.ms.q3 - row.ms.q1) / 2, 2)}{' noisy' if row.noisy else ''}", "bad" if row.noisy else "dim"
        ),
        *(_beside(row.peers[peer]) for peer in peers),
        Span(digits(1e3 * row.bound.seconds)),
        Span(row.bound.binds, row.bound.binds),
        Span(percent(share), "bad" if share > 1 else ""),
        Span(row.kernel),
    )


def _beside(peer: Beside) -> Span:
    if peer.speedup is None:
        return Span("wrong", "bad") if peer.why.startswith("wrong") else Span("–", "dim")
    return Span(digits(peer.speedup.median), "ratio" if peer.speedup.median >= NEVER_SLOWER else "bad")


def _facts(row: Row) -> dict[str, Any]:
    """A row for JSON."""
    flops, nbytes = row.benchmark.work()
    facts: dict[str, Any] = {
        "name": row.benchmark.name,
        "group": row.benchmark.group,
        "family": row.benchmark.problem.family,
        "problem": str(row.benchmark.problem),
        "layout": row.benchmark.layout,
        "dtype": row.benchmark.dtype,
        "mode": row.benchmark.mode,
        "kernel": row.kernel,
        "flops": flops,
        "bytes": nbytes,
        "bound_ms": 1e3 * row.bound.seconds,
        "bound_by": row.bound.binds,
    }
    if row.ms is None:
        return facts | {"wrong": row.wrong}
    peers = {name: _peer_facts(beside) for name, beside in row.peers.items()}
    return facts | {"ms": asdict(row.ms), "noisy": row.noisy, "of_bound": row.of_bound, "peers": peers}


def _peer_facts(beside: Beside) -> dict[str, Any]:
    if beside.ms is None or beside.speedup is None:
        return {"why": beside.why}
    return {"ms": asdict(beside.ms), "speedup": asdict(beside.speedup)}


def _flat(row: Row, peers: list[str]) -> dict[str, Any]:
    """A row whose keys are those of every other, without nesting."""
    facts = _facts(row)
    ms, beside = facts.pop("ms", {}), facts.pop("peers", {})
    facts |= {"of_bound": row.of_bound, "noisy": row.noisy, "wrong": row.wrong}
    facts |= {f"time_{name}": ms.get(key) for name, key in (("ms", "median"), ("q1", "q1"), ("q3", "q3"))}
    for name in peers:
        found = beside.get(name, {})
        facts |= {
            f"{name}_ms": found.get("ms", {}).get("median"),
            f"over_{name}": found.get("speedup", {}).get("median"),
        }
    return facts
