# SPDX-License-Identifier: Apache-2.0
"""A profile as HTML."""

from __future__ import annotations

from omniconv.analysis.profiling.groups import shown
from omniconv.analysis.profiling.result import Profile
from omniconv.analysis.profiling.text import grid, head, under
from omniconv.report import page as html
from omniconv.report.grid import Column, Span


def content(profile: Profile, lang: str = "en") -> str:
    """Totals, the table with a bar for each row's share of the MACs, and notes."""
    columns, cells = grid(profile, lang)
    most = max((row.macs for row in profile.rows), default=0) or 1
    bars = [html.bar(row.macs / most, f"{row.macs:,} MACs") for row in shown(profile)]
    wide = [(*row, Span(drawn, "markup")) for row, drawn in zip(cells, bars, strict=True)]
    about = [f"{name}: {text}" for name, text in head(profile, lang)]
    return (
        html.paragraphs(about, "label")
        + html.table([*columns, Column("MACs", right=False)], wide)
        + html.paragraphs(under(profile, lang))
    )


def page(profile: Profile, lang: str = "en") -> str:
    """A whole page."""
    return html.page(f"omniconv profile {profile.model}", content(profile, lang), profile.to_dict(), lang)
