# SPDX-License-Identifier: Apache-2.0
"""Styled lines on a terminal. Imported only when a person is looking."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from .grid import Line

STYLES = {
    "heading": "bold",
    "label": "dim",
    "standard": "bold",
    "name": "",
    "ratio": "cyan",
    "time": "bold",
    "compute": "green",
    "memory": "yellow",
    "mixed": "yellow",
    "note": "dim",
    "dim": "dim",
    "bad": "bold red",
    "good": "bold green",
    "number": "bold",
}


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Let whoever prints know, where rich would end the program with an exit code of its own."""
        raise BrokenPipeError


def show(lines: Iterable[Line], *, colour: bool, width: int) -> None:
    """Print the lines on stdout as they are: nothing is wrapped, cut or highlighted."""
    console = _Screen(file=sys.stdout, no_color=not colour, width=width, highlight=False, markup=False, emoji=False)
    for line in lines:
        text = Text.assemble(*((span.text, STYLES.get(span.style, "")) for span in line))
        console.print(text, no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)
