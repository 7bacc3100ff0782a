# SPDX-License-Identifier: Apache-2.0
"""What every command ends with: in which form its result leaves, where to, and in which language."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from omniconv.report.grid import plain
from omniconv.report.result import Result
from omniconv.report.words import LANGUAGES

from .leaving import Refused

FORMATS = ("auto", "human", "plain", "json", "csv", "md")
SUFFIXES = {".json": "json", ".csv": "csv", ".md": "md", ".tsv": "plain", ".txt": "human", ".html": "html"}
DTYPES = ("float64", "float32", "bfloat16", "float16")
# Cells of a line where nobody says how wide the screen is.
WIDTH = 120
# As omniconv.analysis.timing has it, which a command that times nothing need not load.
NOISY = 0.2


@dataclass(frozen=True)
class Tail:
    """The options that all commands share, as given."""

    form: str
    output: Path | None
    force: bool
    quiet: bool
    verbose: bool
    no_color: bool
    lang: str

    def progress(self, text: str) -> None:
        """Say on stderr what is being done."""
        if not self.quiet:
            click.echo(f"{text} …", err=True)

    def note(self, text: str) -> None:
        """Say on stderr what may be good to know."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Say on stderr what the reader must know, even a quiet one."""
        click.echo(f"warning: {text}", err=True)

    def emit(self, result: Result) -> None:
        """Print or write the result in the form asked for."""
        form = self._form(result)
        if self.output is not None:
            self.write(self.output, self._text(result, form, ascii_only=False))
        elif form == "human":
            self._show(result)
        else:
            click.echo(self._text(result, form, ascii_only="utf" not in (sys.stdout.encoding or "utf-8").lower()))

    def _form(self, result: Result) -> str:
        if self.form != "auto":
            return self.form
        if self.output is None:
            return "human" if sys.stdout.isatty() else "plain"
        form = SUFFIXES.get(self.output.suffix.lower(), "")
        if not form or (form == "html" and not hasattr(result, "html")):
            known = ", ".join(s for s in SUFFIXES if s != ".html" or hasattr(result, "html"))
            raise Refused(f"`--output` (={str(self.output)!r}) must end in {known}, or --format must be given.")
        return form

    def _text(self, result: Result, form: str, *, ascii_only: bool) -> str:
        if form == "json":
            return result.to_json(ascii_only=ascii_only)
        if form == "md":
            return result.to_markdown(self.lang)
        if form == "html":
            return result.to_html()  # type: ignore[attr-defined]
        return {"csv": result.to_csv, "plain": result.to_plain}.get(
            form, lambda: plain(result.lines(None, self.lang))
        )()

    def _show(self, result: Result) -> None:
        from omniconv.report.screen import show

        width = shutil.get_terminal_size((WIDTH, 24)).columns
        colour = not self.no_color and not os.environ.get("NO_COLOR") and sys.stdout.isatty()
        show(result.lines(width, self.lang), colour=colour, width=width)

    def write(self, path: Path, text: str) -> None:
        """Write a file, and say so."""
        from omniconv.report.files import write

        try:
            write(path, text, overwrite=self.force)
        except FileExistsError:
            raise Refused(f"`{path}` exists already; use another name, or --force.") from None
        except OSError as error:
            raise click.ClickException(f"`{path}` cannot be written: {error.strerror}.") from None
        self.note(f"wrote {path}")


def examples(*calls: str) -> str:
    """The end of a help page: calls to copy, which click must not wrap."""
    return "\n".join(["\b", "Examples:", *(f"  omniconv {call}" for call in calls)])


def tail(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the tail, as its argument ``tail``."""
    options = [
        click.option(
            "--format",
            "form",
            type=click.Choice(FORMATS),
            default="auto",
            help="auto: human on a terminal, plain in a pipe.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Same as --format json."),
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Write to a file; its suffix sets the format.",
        ),
        click.option("--force", is_flag=True, help="Overwrite the file."),
        click.option("-q", "--quiet", is_flag=True, help="No progress and no hints."),
        click.option("-v", "--verbose", is_flag=True, help="Say more; on a failure, where it happened."),
        click.option("--no-color", is_flag=True, help="No colours; so does NO_COLOR."),
        click.option(
            "--lang",
            type=click.Choice(LANGUAGES),
            default="en",
            envvar="OMNICONV_LANG",
            help="Language of headings and notes.",
        ),
    ]

    def command(*args: Any, as_json: bool, form: str, **rest: Any) -> None:
        if as_json and form not in ("auto", "json"):
            raise Refused(f"`--format` (={form}) and --json ask for two formats; use one of them.")
        names = ("output", "force", "quiet", "verbose", "no_color", "lang")
        ends = Tail("json" if as_json else form, **{name: rest.pop(name) for name in names})
        function(*args, tail=ends, **rest)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(options):
        option(command)
    return command
