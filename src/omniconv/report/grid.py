# SPDX-License-Identifier: Apache-2.0
"""Text in columns. A table that is wider than the screen goes on below itself: no value is ever cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Span(NamedTuple):
    """A piece of text with the name of its style (``STYLES`` in :mod:`omniconv.report.screen`)."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


@dataclass(frozen=True)
class Column:
    """A column: its heading, its side, and the block of columns that it stays beside where there is room."""

    heading: str
    right: bool = True
    block: int = 0


def cells(text: str) -> int:
    """Cells that ``text`` takes on a screen: two for a Hangul syllable, none for a combining mark."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.category(c) in ("Mn", "Me", "Cf") for c in text)


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[Span]], width: int | None = None, gap: int = 2
) -> list[Line]:
    """Lay out rows under headings.

    Args:
        columns: the first names the rows, and is repeated where the table goes on below itself.
        rows: one span per column each.
        width: cells of a line; None for as many as it takes.
        gap: cells between columns.
    """
    widths = [max([cells(column.heading), *(cells(row[at].text) for row in rows)]) for at, column in enumerate(columns)]
    lines: list[Line] = []
    for part in _parts(columns, widths, width, gap):
        lines += [()] if lines else []
        heading = [Span(columns[at].heading, "heading") for at in part]
        for row in [heading, *([row[at] for at in part] for row in rows)]:
            lines.append(_line(row, [columns[at] for at in part], [widths[at] for at in part], gap))
    return lines


def _parts(columns: Sequence[Column], widths: Sequence[int], width: int | None, gap: int) -> list[list[int]]:
    """Which columns stand side by side: whole blocks as long as they fit, single columns where a block does not."""
    every = list(range(len(columns)))

    def taken(part: Iterable[int]) -> int:
        return sum(widths[at] + gap for at in part) - gap

    if width is None or taken(every) <= width:
        return [every]
    blocks: list[list[int]] = []
    for at in every[1:]:
        fresh = not blocks or columns[blocks[-1][-1]].block != columns[at].block
        if fresh or taken([0, *blocks[-1], at]) > width:
            blocks.append([])
        blocks[-1].append(at)
    parts: list[list[int]] = []
    for block in blocks:
        if parts and taken([*parts[-1], *block]) <= width:
            parts[-1] += block
        else:
            parts.append([0, *block])
    return parts or [every]


def _line(row: Sequence[Span], columns: Sequence[Column], widths: Sequence[int], gap: int) -> Line:
    spans: list[Span] = []
    for at, (span, column, width) in enumerate(zip(row, columns, widths, strict=True)):
        fill = " " * (width - cells(span.text))
        before, after = (fill, "") if column.right else ("", fill)
        last = at == len(row) - 1
        spans += [Span(before), span, Span("" if last else after + " " * gap)]
    while spans and not spans[-1].text.strip():
        spans.pop()
    return tuple(span for span in spans if span.text)


def fields(pairs: Sequence[tuple[str, str]], width: int | None = None, style: str = "label") -> list[Line]:
    """Names in one column, what they are in the next, wrapped under itself."""
    indent = max((cells(name) for name, _ in pairs), default=0) + 2
    lines: list[Line] = []
    for name, text in pairs:
        if not (name or text):
            lines.append(())
            continue
        first, *rest = wrapped(text, None if width is None else width - indent)
        lines.append((Span(name, style), Span(" " * (indent - cells(name)) + first)))
        lines += [(Span(" " * indent + more),) for more in rest]
    return lines


def wrapped(text: str, width: int | None) -> list[str]:
    """``text`` in lines of at most ``width`` cells, broken at spaces; a longer word stays whole."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for at, word in enumerate(paragraph.split(" ")):
            if at and width is not None and cells(line) + 1 + cells(word) > width and line.strip():
                lines.append(line.rstrip())
                line = word
            else:
                line = f"{line} {word}" if at else word
        lines.append(line)
    return lines


def plain(lines: Iterable[Line]) -> str:
    """The lines as text without styles."""
    return "\n".join("".join(span.text for span in line) for line in lines)
