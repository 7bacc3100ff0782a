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

from .leaving import Refused, telling

FORMATS = ("auto", "human", "plain", "json", "csv", "md")
SUFFIXES = {".json": "json", ".csv": "csv", ".md": "md", ".tsv": "plain", ".txt": "human", ".html": "html"}
DTYPES = ("float64", "float32", "bfloat16", "float16")
# Cells of a line where nobody says how wide the screen is.
WIDTH = 120
# As omniconv.analysis.timing has it, which a command that times nothing need not load.
NOISY = 0.2
_ERASE = "\r\x1b[K"


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
        """Say on stderr what is being done: on a terminal in one line that goes again."""
        if self.quiet:
            return
        if sys.stderr.isatty():
            click.echo(f"{_ERASE}{text[: shutil.get_terminal_size().columns - 3]} …", err=True, nl=False)
        else:
            click.echo(f"{text} …", err=True)

    def done(self) -> None:
        """Take the line of progress away."""
        if not self.quiet and sys.stderr.isatty():
            click.echo(_ERASE, err=True, nl=False)

    def note(self, text: str) -> None:
        """Say on stderr what may be good to know."""
        if not self.quiet:
            self.done()
            click.echo(text, err=True)

    def hint(self, text: str) -> None:
        """Say on stderr what a person could do next; a program is told nothing."""
        if self.output is None and self.form in ("auto", "human") and sys.stdout.isatty():
            self.note(text)

    def warn(self, text: str) -> None:
        """Say on stderr what the reader must know, even a quiet one."""
        self.done()
        click.echo(f"warning: {text}", err=True)

    def emit(self, result: Result) -> None:
        """Print or write the result in the form asked for."""
        self.done()
        if self.output is not None:
            self.write(self.output, self._text(result, self._form_of(self.output), ascii_only=False))
            return
        form = self.form if self.form != "auto" else "human" if sys.stdout.isatty() else "plain"
        if form == "human":
            self._show(result)
        else:
            click.echo(self._text(result, form, ascii_only="utf" not in (sys.stdout.encoding or "utf-8").lower()))

    def check(self, *paths: Path | None) -> None:
        """Raise before anything is computed where a file could not be written at the end."""
        given = [path for path in (self.output, *paths) if path is not None]
        if len({path.resolve() for path in given}) < len(given):
            raise Refused(f"`--output` and --html (={given[0]}) name one file; use two.")
        for path in given:
            if path.exists() and not self.force:
                raise Refused(f"`{path}` exists already; use another name, or --force.")
            if not path.parent.is_dir():
                raise Refused(f"`{path.parent}` is no folder; make it first, or use another name.")
        if self.output is not None:
            self._form_of(self.output)

    def write(self, path: Path, text: str) -> None:
        """Write a file, and say so."""
        from omniconv.report.files import write

        try:
            write(path, text, overwrite=self.force)
        except OSError as error:
            raise click.ClickException(f"`{path}` cannot be written: {error.strerror or error}") from error
        self.note(f"wrote {path}")

    def _form_of(self, path: Path) -> str:
        by_suffix = SUFFIXES.get(path.suffix.lower())
        if self.form == "auto":
            if by_suffix is None:
                raise Refused(f"`--output` (={path}) must end in {', '.join(SUFFIXES)}; or give --format.")
            return by_suffix
        if by_suffix is not None and by_suffix != self.form:
            raise Refused(f"`--output` (={path}) and --format {self.form} ask for two formats; use one of them.")
        return self.form

    def _text(self, result: Result, form: str, *, ascii_only: bool) -> str:
        if form == "json":
            return result.to_json(ascii_only=ascii_only)
        if form == "csv":
            return result.to_csv()
        if form == "plain":
            return result.to_plain()
        if form == "md":
            return result.to_markdown(self.lang)
        return result.to_html(self.lang) if form == "html" else plain(result.lines(WIDTH, self.lang))

    def _show(self, result: Result) -> None:
        from omniconv.report.screen import show

        width = shutil.get_terminal_size((WIDTH, 24)).columns
        colour = not self.no_color and not os.environ.get("NO_COLOR") and sys.stdout.isatty()
        show(result.lines(width, self.lang), colour=colour, width=width)


def examples(*calls: str) -> str:
    """The end of a help page: calls to copy, which click must not wrap."""
    return "\n".join(["\b", "Examples:", *(f"  omniconv {call}" for call in calls)])


_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--format", "form"),
        {"type": click.Choice(FORMATS), "default": "auto", "help": "auto: human on a terminal, else plain."},
    ),
    (("--json", "as_json"), {"is_flag": True, "help": "Same as --format json."}),
    (("-o", "--output"), {"type": _FILE, "help": "Write to a file; its suffix sets the format."}),
    (("--force",), {"is_flag": True, "help": "Overwrite files."}),
    (("-q", "--quiet"), {"is_flag": True, "help": "No progress and no hints."}),
    (("-v", "--verbose"), {"is_flag": True, "help": "Say more; on a failure, where it happened."}),
    (("--no-color",), {"is_flag": True, "help": "No colours; so does NO_COLOR."}),
    (
        ("--lang",),
        {"type": click.Choice(LANGUAGES), "default": "en", "envvar": "OMNICONV_LANG", "help": "Of headings and notes."},
    ),
)


def tail(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of the tail, as its argument ``tail``."""

    def command(*, as_json: bool, form: str, **rest: Any) -> None:
        if as_json and form not in ("auto", "json"):
            raise Refused(f"`--format` (={form}) and --json ask for two formats; use one of them.")
        names = ("output", "force", "quiet", "verbose", "no_color", "lang")
        ends = Tail("json" if as_json else form, **{name: rest.pop(name) for name in names})
        ends.check(rest.get("html"))
        with telling(ends.verbose, ends.done):
            function(tail=ends, **rest)

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for names, settings in reversed(_OPTIONS):
        click.option(*names, **settings)(command)
    return command
