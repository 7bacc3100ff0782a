# SPDX-License-Identifier: Apache-2.0
"""What this version is meant to reach, and what a result file reached of it.

python benchmarks/targets.py RESULT.json
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from omniconv.analysis.benchmark.peers import TORCH
from omniconv.analysis.benchmark.problems import MODES
from omniconv.analysis.benchmark.result import NEVER_SLOWER
from results import read

Row = dict[str, Any]


# The roofline of less work says little: a call takes a few microseconds whatever it computes.
LEAST_BOUND_MS = 0.03


class Target(NamedTuple):
    """The least share of the roofline for a group of problems, forward, and forward with backward.

    It is meant for problems whose roofline is ``least_bound_ms`` or more.
    """

    group: str
    forward: float
    training: float
    least_bound_ms: float = LEAST_BOUND_MS


SHARES = (
    Target("depthwise 2-D", 0.50, 0.40),  # K 3 to 7
    Target("depthwise 31×31", 0.70, 0.50),
    Target("depthwise 1-D", 0.50, 0.35),  # K 4 to 31
    Target("depthwise 3-D", 0.50, 0.35),
    Target("transposed depthwise", 0.40, 0.30),
    Target("small groups", 0.45, 0.40),  # 4 to 8 channels a group
    Target("spatially separable depthwise", 0.40, 0.30),
    Target("lightweight 1-D", 0.50, 0.35),  # K 3 to 31
    Target("deformable 2-D", 0.55, 0.25),
    Target("dynamic 1-D", 0.40, 0.30),  # K 3 to 31
    Target("involution 2-D", 0.40, 0.30),
    Target("pointwise", 0.85, 0.60, least_bound_ms=0.1),
    Target("depthwise separable", 0.75, 0.55),
)
# On this share of the problems at least as fast as the fastest peer of all; beside torch alone NEVER_SLOWER, on all.
FASTEST_SHARE = 0.9
TINY_MS = 0.010


def reached(rows: list[Row]) -> Iterator[str]:
    """One sentence a target: how many rows met it, and those that did not, the farthest first."""
    timed = [row for row in rows if "ms" in row]
    yield from (f"WRONG {row['name']}: {row['wrong']}" for row in rows if "wrong" in row)
    for target, mode in product(SHARES, MODES):
        least = getattr(target, mode)
        values = {row["name"]: row["of_bound"] / least for row in meant(timed, target, mode)}
        yield from _said(f"{target.group}, {mode}: roofline ≥ {least:.2f}", values, scale=least)
    beside = {row["name"]: speedup["median"] for row in timed if (speedup := _least(row, TORCH))}
    over = {name: ratio / NEVER_SLOWER for name, ratio in beside.items()}
    yield from _said(f"every problem: ≥ {NEVER_SLOWER} × the fastest of {', '.join(TORCH)}", over, scale=NEVER_SLOWER)
    # Two whose spreads overlap are not ranked apart, so the third quartile decides.
    fastest = {row["name"]: speedup["q3"] for row in timed if (speedup := _least(row, row["peers"]))}
    yield from _said(f"{FASTEST_SHARE:.0%} of all: ≥ 1 × the fastest peer, up to the spread", fastest)
    wide = {row["name"]: row["ms"] for row in timed if row["dtype"] == "float32"}
    halves = {row["name"]: row["ms"] for row in timed if row["dtype"] == "bfloat16"}
    pairs = {name: (wide[base], ms) for name, ms in halves.items() if (base := name.replace(".bf16", "")) in wide}
    ratios = {name: (ms if ms["q1"] <= its["q3"] else its)["q3"] / ms["q1"] for name, (its, ms) in pairs.items()}
    yield from _said("bfloat16: no slower than float32, up to the spread", ratios)
    tiny = {row["name"]: TINY_MS / row["ms"]["median"] for row in timed if _tiny(row)}
    yield from _said(f"tiny, forward: ≤ {1e3 * TINY_MS:.0f} µs", tiny)


def meant(timed: list[Row], target: Target, mode: str) -> list[Row]:
    """The rows that a target is for."""
    return [
        row
        for row in timed
        if (row["group"], row["mode"], row["dtype"]) == (target.group, mode, "float32")
        and row["bound_ms"] >= target.least_bound_ms
    ]


def below(rows: list[Row]) -> dict[str, float]:
    """The names of the rows below their share of the roofline, with that share."""
    return {
        row["name"]: getattr(target, mode)
        for target, mode in product(SHARES, MODES)
        for row in meant([row for row in rows if "ms" in row], target, mode)
        if row["of_bound"] < getattr(target, mode)
    }


def _said(what: str, values: dict[str, float], scale: float = 1.0) -> Iterator[str]:
    """``values`` are shares of what is meant: at 1 a row has met it. Nothing is said of no rows."""
    if not values:
        return
    missed = sorted((value, name) for name, value in values.items() if value < 1)
    worst = ", ".join(f"{name} {value * scale:.2f}" for value, name in missed)
    yield f"{len(values) - len(missed):3} of {len(values):3}  {what}{'; not ' + worst if worst else ''}"


def _least(row: Row, names: tuple[str, ...] | dict[str, Any]) -> dict[str, float] | None:
    """How many times faster than the fastest of these peers that was timed."""
    found = [row["peers"][name]["speedup"] for name in names if "speedup" in row["peers"].get(name, {})]
    return min(found, key=lambda speedup: speedup["median"]) if found else None


def _tiny(row: Row) -> bool:
    return row["group"] == "tiny" and row["mode"] == "forward" and row["dtype"] == "float32"


def main(arguments: list[str] | None = None) -> int:
    """Print what a result file reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    options = parser.parse_args(arguments)
    print("\n".join(reached(read(options.result, parser)["rows"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
