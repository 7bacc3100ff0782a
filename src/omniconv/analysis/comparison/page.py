# SPDX-License-Identifier: Apache-2.0
"""A comparison as HTML and as a plot."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from omniconv.analysis.comparison.result import Comparison
from omniconv.analysis.comparison.text import head
from omniconv.report import page as html
from omniconv.report.grid import Column, Span
from omniconv.report.numbers import ratio


def content(comparison: Comparison, lang: str = "en") -> str:
    """Header, table with a bar of the MACs (and of the time) in every row, and notes."""
    columns, rows = comparison.grid(lang)
    measured = comparison.machine is not None
    bars = [_bars(row.ratio, row.measured.time_ratio if row.measured else None) for row in comparison.rows]
    heading = "MACs ×std" + " / time ×std" * measured
    wide = [(*row, Span(drawn, "markup")) for row, drawn in zip(rows, bars, strict=True)]
    about = [f"{name}: {text}" for name, text in head(comparison, lang)]
    return (
        html.paragraphs(about, "label")
        + html.table([*columns, Column(heading, right=False)], wide)
        + html.paragraphs(comparison.under(lang))
    )


def _bars(macs: float | None, time: float | None) -> str:
    drawn = [
        html.bar(share, f"{what} {ratio(share)} of standard")
        for what, share in (("MACs", macs), ("time", time))
        if share
    ]
    return "<br>".join(drawn)


def page(comparison: Comparison, lang: str = "en") -> str:
    """A whole page."""
    at = comparison.position
    title = f"omniconv compare {at.in_channels} {at.out_channels} {'x'.join(map(str, at.in_size))}"
    return html.page(title, content(comparison, lang), comparison.to_dict(), lang)


def plot(comparison: Comparison, ax: Any = None) -> Any:
    """Bars of MACs and of time over standard, on a logarithmic axis."""
    try:
        plt = import_module("matplotlib.pyplot")
    except ImportError as error:
        raise ImportError("`plot` needs matplotlib; pip install matplotlib.") from error
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 0.45 * len(comparison.rows) + 1.2), layout="constrained")
    rows = [row for row in comparison.rows if row.ratio]
    places = range(len(rows))
    timed = any(row.measured and row.measured.time_ratio for row in rows)
    height = 0.4 if timed else 0.7
    ax.barh([p - height / 2 * timed for p in places], [row.ratio or 0 for row in rows], height, label="MACs")
    if timed:
        times = [(row.measured.time_ratio if row.measured else None) or float("nan") for row in rows]
        ax.barh([p + height / 2 for p in places], times, height, label="time")
    ax.set_yticks(list(places), [row.family for row in rows])
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.axvline(1, color="black", linewidth=0.8)
    ax.set_xlabel("ratio to standard of the same shape")
    ax.legend()
    return ax
