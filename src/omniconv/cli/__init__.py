# SPDX-License-Identifier: Apache-2.0
"""The command line. A command's module is imported when it runs, and torch only to time something or read a model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from .leaving import leave, replace_unknown_signs
from .tail import examples

COMMANDS = {
    "families": "list the convolutions",
    "compare": "all convolutions at one layer position",
    "explain": "one convolution's cost, with your numbers in the formula",
    "profile": "a model, layer by layer",
    "accelerate": "a trained model made faster, with the same outputs",
    "bench": "named problems, timed beside other libraries",
    "doctor": "what this machine can do, and what is missing",
}


class Commands(click.Group):
    """The commands, each imported when asked for, and one way to leave: exit code and no traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"omniconv.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> Any:
        name = prog_name or "omniconv"
        if "_OMNICONV_COMPLETE" in os.environ:
            super().main(args, name, *rest, **extra)
        replace_unknown_signs()
        with leave(), self.make_context(name, list(sys.argv[1:] if args is None else args)) as context:
            self.invoke(context)


def _version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from omniconv import __version__

        click.echo(f"omniconv {__version__}")
        ctx.exit()


EXAMPLES = examples("compare 64 128 56", "compare 64 128 56 --time", "explain depthwise 64 64 56", "COMMAND --help")


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Every convolution that deep learning uses: counted, compared, explained, measured.

    Results go to stdout, all else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check did not hold.
    """


def main() -> None:
    """Run the command line."""
    cli.main(prog_name="omniconv")
