# SPDX-License-Identifier: Apache-2.0
"""Records as text for other programs: tab-separated, CSV, Markdown. Keys stay English and numbers whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

Records = Sequence[Mapping[str, Any]]


def tab_separated(records: Records) -> str:
    """One line of keys, one line per record; a tab or line break inside a value becomes a space."""
    lines = ["\t".join(_keys(records))]
    lines += ["\t".join(" ".join(_text(v).split()) for v in record.values()) for record in records]
    return "\n".join(lines)


def comma_separated(records: Records) -> str:
    """CSV as RFC 4180 has it, with line feeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_keys(records))
    writer.writerows([_text(v) for v in record.values()] for record in records)
    return out.getvalue().removesuffix("\n")


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A Markdown table whose source is aligned too."""
    from .grid import cells

    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [headings, *rows]]
    widths = [max(3, *(cells(row[at]) for row in safe)) for at in range(len(headings))]

    def line(row: Sequence[str]) -> str:
        padded = []
        for cell, width, side in zip(row, widths, right, strict=True):
            fill = " " * (width - cells(cell))
            padded.append(fill + cell if side else cell + fill)
        return f"| {' | '.join(padded)} |"

    rule = [("-" * (width - 1) + ":") if side else "-" * width for width, side in zip(widths, right, strict=True)]
    return "\n".join([line(safe[0]), line(rule), *(line(row) for row in safe[1:])])


def _keys(records: Records) -> list[str]:
    return list(records[0]) if records else []


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return "x".join(map(_text, value))
    return str(value)
