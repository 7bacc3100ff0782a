# SPDX-License-Identifier: Apache-2.0
"""``Result``: the same facts as a dictionary, JSON, delimited text, Markdown, and lines for a person."""

from __future__ import annotations

import json
from typing import Any

from .delimited import comma_separated, markdown, tab_separated
from .grid import Column, Line, Span, plain


class Result:
    """Base of what the commands show and the Python functions return. A subclass says the facts; the forms are here."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, under a schema version."""
        raise NotImplementedError(f"{type(self).__name__} must say its facts")

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as plain values, one dictionary each, all with the same keys."""
        raise NotImplementedError(f"{type(self).__name__} must say its rows")

    def lines(self, width: int | None = None, lang: str = "en") -> list[Line]:
        """What a person reads, styled, at most ``width`` cells wide where values allow."""
        raise NotImplementedError(f"{type(self).__name__} must say how it reads")

    def grid(self, lang: str = "en") -> tuple[list[Column], list[tuple[Span, ...]]]:
        """The table of rows as a person reads it: headings and cells."""
        records = self.to_records()
        keys = list(records[0]) if records else []
        cells = [tuple(Span("" if value is None else str(value)) for value in record.values()) for record in records]
        return [Column(key, right=False) for key in keys], cells

    def under(self, lang: str = "en") -> list[str]:
        """Sentences below the table."""
        return []

    def to_html(self, lang: str = "en") -> str:
        """A page that needs nothing else: what a person reads, and the dictionary as JSON inside it."""
        from . import page

        columns, cells = self.grid(lang)
        content = page.table(columns, cells) + page.paragraphs(self.under(lang))
        return page.page(type(self).__name__, content, self.to_dict(), lang)

    def __repr__(self) -> str:
        return plain(self.lines())

    def to_json(self, *, ascii_only: bool = False) -> str:
        """The dictionary as JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=ascii_only)

    def to_plain(self) -> str:
        """The rows tab-separated, numbers whole."""
        return tab_separated(self.to_records())

    def to_csv(self) -> str:
        """The rows as CSV, numbers whole."""
        return comma_separated(self.to_records())

    def to_markdown(self, lang: str = "en") -> str:
        """The table in Markdown, as a person reads it, with what is said below it."""
        columns, cells = self.grid(lang)
        rows = [[span.text.strip() for span in row] for row in cells]
        table = markdown([column.heading for column in columns], rows, [column.right for column in columns])
        return table + "".join(f"\n\n{text}" for text in self.under(lang))
