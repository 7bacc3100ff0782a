# SPDX-License-Identifier: Apache-2.0
"""Draw a result file: what share of the machine's roofline each problem reaches in float32, here and elsewhere.

    python benchmarks/chart.py RESULT.json [-o docs/figures/benchmark.svg]

One line a problem: a dot for omniconv, a ring for the fastest of torch, a bar for the fastest of the other libraries.
The colours are of middle lightness, so that they stand out from a white page and from a dark one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from omniconv.analysis.benchmark.peers import PEERS, TORCH
from omniconv.analysis.benchmark.problems import MODES
from omniconv.report.files import write
from results import HERE, read

OURS, THEIRS, OTHERS, INK, FAINT = "#2f81f7", "#e0752d", "#8a8f98", "#768390", "#76839055"
LABELS, PANEL, GAP, LINE, TOP, BOTTOM = 210, 330, 40, 13, 96, 8
SPACE = 7  # between groups
# Taps that only meet padding count as work, so a kernel that skips them can reach more than all of the roofline.
MOST = 1.2
TICKS = (0, 0.25, 0.5, 0.75, 1)
Row = dict[str, Any]


def drawn(result: dict[str, Any]) -> str:
    """The chart as SVG."""
    groups = grouped(result["rows"])
    height = TOP + BOTTOM + sum(LINE * (len(lines) + 1) + SPACE for lines in groups.values())
    width = LABELS + len(MODES) * (PANEL + GAP)
    body = [*_head(result, height), *_lines(groups)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui,sans-serif" font-size="11" fill="{INK}" role="img">\n'
        f"<title>{escape(_title(result))}</title>\n" + "\n".join(body) + "\n</svg>\n"
    )


def grouped(rows: list[Row]) -> dict[str, dict[str, dict[str, Row]]]:
    """The timed rows in float32: group → problem and layout → mode → row."""
    groups: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        if row["dtype"] == "float32" and "ms" in row:
            line = groups.setdefault(row["group"], {}).setdefault(row["name"].removesuffix(".train"), {})
            line[row["mode"]] = row
    return groups


def share(row: Row, names: list[str]) -> float | None:
    """The share of the roofline that the fastest of these peers reaches."""
    found = [row["peers"][name]["ms"]["median"] for name in names if "ms" in row["peers"].get(name, {})]
    return row["bound_ms"] / min(found) if found else None


def _title(result: dict[str, Any]) -> str:
    machine = result["machine"]
    where = f"{machine['name']}, {machine['threads']} threads"
    return f"Share of the roofline reached in float32: omniconv {result['version']} on {where}"


def _head(result: dict[str, Any], height: int) -> Iterator[str]:
    yield f'<text x="0" y="16" font-size="14" font-weight="600">{escape(_title(result))}</text>'
    others = ", ".join(name for name in result["options"]["peers"] if name not in TORCH)
    legend = ((_dot, 8, "omniconv"), (_ring, 98, f"fastest of {', '.join(TORCH)}"), (_bar, 308, f"fastest of {others}"))
    for mark, x, text in legend if others else legend[:2]:
        yield f'{mark(x, 36)}<text x="{x + 10}" y="40">{escape(text)}</text>'
    for at, mode in enumerate(MODES):
        left = _left(at)
        heading = "forward" if mode == MODES[0] else "forward + backward"
        yield f'<text x="{left}" y="{TOP - 28}" font-weight="600">{heading}</text>'
        for tick in TICKS:
            x = left + PANEL * tick / MOST
            yield f'<path d="M{x:.1f} {TOP - 6}V{height - BOTTOM}" stroke="{FAINT}"/>'
            yield f'<text x="{x:.1f}" y="{TOP - 12}" text-anchor="middle" font-size="10">{tick:g}</text>'


def _lines(groups: dict[str, dict[str, dict[str, Row]]]) -> Iterator[str]:
    y = TOP
    for group, lines in groups.items():
        y += LINE
        yield f'<text x="0" y="{y + 4}" font-weight="600">{escape(group)}</text>'
        for name, modes in lines.items():
            y += LINE
            yield f'<text x="10" y="{y + 4}">{escape(name)}</text>'
            for at, mode in enumerate(MODES):
                if mode in modes:
                    yield _marks(modes[mode], _left(at), y)
        y += SPACE


def _marks(row: Row, left: int, y: int) -> str:
    """One row: a line from the best of the others to omniconv, and the marks on it."""
    torch, other = share(row, list(TORCH)), share(row, [name for name in PEERS if name not in TORCH])
    places = {"omniconv": row["of_bound"], "torch": torch, "others": other}
    said = ", ".join(f"{name} {value:.2f}" for name, value in places.items() if value is not None)

    def x(value: float) -> float:
        return left + PANEL * min(value, MOST) / MOST

    best = max((value for value in (torch, other) if value is not None), default=row["of_bound"])
    marks = f'<path d="M{x(best):.1f} {y}H{x(row["of_bound"]):.1f}" stroke="{OURS}" stroke-opacity=".45"/>'
    marks += _bar(x(other), y) if other is not None else ""
    marks += _ring(x(torch), y) if torch is not None else ""
    return f"<g><title>{escape(row['name'])}: {said}</title>{marks}{_dot(x(row['of_bound']), y)}</g>"


def _left(panel: int) -> int:
    return LABELS + panel * (PANEL + GAP)


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y}" r="4" fill="{OURS}"/>'


def _ring(x: float, y: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y}" r="3.5" fill="none" stroke="{THEIRS}" stroke-width="2"/>'


def _bar(x: float, y: float) -> str:
    return f'<path d="M{x:.1f} {y - 5}v10" stroke="{OTHERS}" stroke-width="3"/>'


def main(arguments: list[str] | None = None) -> int:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "docs" / "figures" / "benchmark.svg")
    options = parser.parse_args(arguments)
    svg = drawn(read(options.result, parser))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print(f"wrote {write(options.output, svg, overwrite=True)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
