# SPDX-License-Identifier: Apache-2.0
"""HTML that needs nothing else: no script, no font, no other host. Colours follow the page it stands in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from .grid import Column, Span

STYLE = """
.omniconv{font:14px/1.5 system-ui,sans-serif}
.omniconv table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.6em 0}
.omniconv th,.omniconv td{padding:.15em .7em;text-align:left;white-space:nowrap;background:none}
.omniconv th{border-bottom:1px solid currentColor}
.omniconv .r{text-align:right}
.omniconv .dim,.omniconv .note,.omniconv .label{opacity:.7}
.omniconv .standard,.omniconv .time{font-weight:600}
.omniconv .bad{font-weight:600;color:#c0392b}
.omniconv p{margin:.2em 0}
.omniconv svg{vertical-align:middle}
"""


def table(columns: Sequence[Column], rows: Sequence[Sequence[Span]]) -> str:
    """A table. A span whose text is markup already comes with the style ``markup``."""
    head = "".join(_cell("th", Span(column.heading), column) for column in columns)
    body = "".join(
        f"<tr>{''.join(_cell('td', span, column) for span, column in zip(row, columns, strict=True))}</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table>\n"


def bar(share: float, title: str, pixels: int = 120) -> str:
    """A horizontal bar as inline SVG, full where ``share`` is 1."""
    length = max(min(share, 1.0), 0.0) * pixels
    return (
        f'<svg width="{pixels}" height="10" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<rect width="{length:.1f}" height="10" fill="currentColor" fill-opacity=".55"/></svg>'
    )


def paragraphs(texts: Sequence[str], style: str = "note") -> str:
    """Each text as a paragraph."""
    return "".join(f'<p class="{style}">{escape(text)}</p>\n' for text in texts)


def fragment(content: str) -> str:
    """Content for a notebook or a page, with its style."""
    return f'<div class="omniconv"><style>{STYLE}</style>\n{content}</div>\n'


def page(title: str, content: str, facts: dict[str, Any], lang: str = "en") -> str:
    """A whole page; its numbers stand inside it as JSON, for whoever reads it with a program."""
    numbers = json.dumps(facts, ensure_ascii=False).replace("</", "<\\/")
    return (
        f'<!doctype html>\n<html lang="{lang}">\n<head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        "<style>:root{color-scheme:light dark}body{margin:2em auto;max-width:75em;padding:0 1em}"
        f".omniconv{{overflow-x:auto}}</style></head>\n<body>\n{fragment(content)}"
        f'<script type="application/json" id="omniconv">{numbers}</script>\n</body>\n</html>\n'
    )


def _cell(tag: str, span: Span, column: Column) -> str:
    text = span.text if span.style == "markup" else escape(span.text.strip())
    names = " ".join(filter(None, ["r" if column.right else "", "" if span.style == "markup" else span.style]))
    return f'<{tag} class="{names}">{text}</{tag}>' if names else f"<{tag}>{text}</{tag}>"
