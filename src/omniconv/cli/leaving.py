# SPDX-License-Identifier: Apache-2.0
"""How a command ends: by an exit code and a sentence on stderr, never by a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

FAILED, USAGE, CHECK = 1, 2, 3
INTERRUPTED = 130
# What a shell reports for a program that SIGPIPE ended, as `head` ends those before it.
PIPE_CLOSED = 141


class CheckFailed(click.ClickException):
    """A number that was asked to hold does not."""

    exit_code = CHECK


class Refused(click.ClickException):
    """A wrong value: its rule, and the nearest call that is legal."""

    exit_code = USAGE

    def __init__(self, message: str, instead: str = "") -> None:
        super().__init__(message + (f"\ntry: {instead}" if instead else ""))


def replace_unknown_signs() -> None:
    """Have stdout write ``?`` for a sign that its encoding lacks, where it would fail at the end of the work."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and sys.stdout.errors == "strict":
        reconfigure(errors="replace")


@contextmanager
def leave() -> Iterator[None]:
    """Turn whatever ends the block into an exit code."""
    try:
        yield
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, EOFError, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        _forget_stdout()
        sys.exit(PIPE_CLOSED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    sys.exit(0)


@contextmanager
def telling(verbose: bool, done: Callable[[], None]) -> Iterator[None]:
    """Turn what nobody foresaw into one line, unless the user asked where it happened; end the progress either way."""
    expected = (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError)
    try:
        yield
    except Exception as error:
        done()
        if verbose or isinstance(error, expected):
            raise
        raise click.ClickException(f"{type(error).__name__}: {error} (-v shows where)") from error
    except BaseException:
        done()
        raise


def _forget_stdout() -> None:
    """Point stdout nowhere, or the interpreter complains when it flushes it at the end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
