# SPDX-License-Identifier: Apache-2.0
"""``omniconv compare IN OUT SIZE``: every convolution at one layer position."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .leaving import CheckFailed, Refused
from .tail import DTYPES, NOISY, Tail, examples, tail
from .values import AXES, call_of, raised

if TYPE_CHECKING:
    from omniconv.analysis.comparison.result import Comparison

# As omniconv.analysis.comparison.compare has it, which is loaded only to run.
SORTS = ("family", "params", "macs", "bytes", "flop_per_byte", "receptive_field", "bound", "time")
EXAMPLES = examples(
    "compare 64 128 56",
    "compare 64 64 56x48 --kernel 5 --only standard,depthwise --time",
    "compare 256 256 1000 --dim 1 --json",
)


@click.command("compare", epilog=EXAMPLES)
@click.argument("in_channels", metavar="IN", type=int)
@click.argument("out_channels", metavar="OUT", type=int)
@click.argument("size", metavar="SIZE", type=AXES)
@click.option("-k", "--kernel", "kernel_size", type=AXES, default=3, show_default=True, help="Taps.")
@click.option("-s", "--stride", type=AXES, default=1, show_default=True, help="Step between outputs.")
@click.option("-d", "--dilation", type=AXES, default=1, help="Step between taps; dilated uses 2 if this is 1.")
@click.option("-g", "--groups", type=int, default=4, show_default=True, help="Groups of grouped.")
@click.option("--heads", type=int, default=8, show_default=True, help="Heads, where channels share kernels.")
@click.option("--dim", type=click.IntRange(1, 3), help="Axes; that of SIZE, else 2.")
@click.option("-n", "--batch", type=int, default=1, show_default=True, help="Inputs at once.")
@click.option("--up", type=int, default=1, help="A position that enlarges by this factor.")
@click.option("--only", multiple=True, metavar="NAME[,…]", help="Show these.")
@click.option("--skip", multiple=True, metavar="NAME[,…]", help="Show all but these.")
@click.option("--sort", metavar="KEY", help=f"{', '.join(SORTS)}.")
@click.option("--time", is_flag=True, help="Measure, each answer checked first. Takes about half a minute.")
@click.option("--device", default="cpu", show_default=True, help="Where to measure.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="What to compute in.")
@click.option("--channels-last", is_flag=True, help="Measure with channels innermost in memory.")
@click.option("--threads", type=int, help="Threads to measure with.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write one page that needs nothing else."
)
@tail
def command(*, html: Path | None, tail: Tail, **options: Any) -> None:
    """Show every convolution at one layer position: IN and OUT channels, SIZE input positions (56, 56x48, 16x56x56).

    Parameters, multiply-adds, their ratio to a standard convolution of the same shape, receptive field and FLOP per
    byte; with --time also this machine's bound and the measured time against it. Where a convolution cannot fill the
    position, the nearest shape that it can fill is shown, with a note.
    """
    from omniconv.analysis.comparison.compare import compare

    arguments = [options.pop(name) for name in ("in_channels", "out_channels", "size")]
    for name in ("only", "skip"):
        names = [part for given in options[name] for part in given.split(",") if part.strip()]
        options[name] = names if options[name] else None
    try:
        comparison = compare(*arguments, **options, report=tail.progress)
    except (ValueError, TypeError) as error:
        raise Refused(str(error), _nearest(arguments, options)) from error
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise click.ClickException("--time needs torch, which is not installed; pip install torch.") from error
    _warn(comparison, tail)
    if tail.verbose:
        from omniconv.core.choose import choose

        where = str(comparison.options["dtype"]), str(comparison.options["device"])
        for row in comparison.rows:
            if row.problem is not None:
                tail.note(f"{row.family}: {choose(row.problem, *where).reason}")
    tail.emit(comparison)
    if html is not None:
        tail.write(html, comparison.to_html())
    if not options["time"]:
        context = click.get_current_context()
        tail.hint(f"next: {call_of(context, context.params | {'time': True})}    omniconv explain NAME …")
    if comparison.wrong:
        raise CheckFailed("; ".join(comparison.wrong))


def _warn(comparison: Comparison, tail: Tail) -> None:
    """Say which of the times say little."""
    if comparison.machine is None:
        return
    unsteady = [row.family for row in comparison.rows if row.measured and row.measured.noisy]
    if unsteady:
        tail.warn(f"too noisy to rank: {', '.join(unsteady)}. Close what else runs, and measure again.")
    elif comparison.machine["noise"] > NOISY:
        noise = f"{comparison.machine['noise']:.0%}"
        tail.warn(
            f"this machine is noisy: a kernel repeated spreads by {noise}. Close what else runs, and measure again."
        )


def _nearest(arguments: list[Any], options: dict[str, Any]) -> str:
    """The legal call that is nearest: numbers raised, names mended, and what else a flag needs."""
    from omniconv.analysis.comparison.compare import closest, compare

    def mended(names: list[str] | None) -> list[str] | None:
        return [close for close in map(closest, names) if close] if names else None

    given = dict(zip(("in_channels", "out_channels", "size"), arguments, strict=True)) | options
    better = {name: raised(value) for name, value in given.items()}
    better |= {"only": mended(options["only"]) or None, "skip": mended(options["skip"]) or None}
    if better["up"] > 1:
        better["stride"] = 1
    if isinstance(better["size"], tuple):
        better["size"] = better["size"][: options["dim"] or 3]
    with suppress(ValueError, TypeError):
        compare(**better | {"time": False, "sort": None, "device": "cpu", "channels_last": False, "threads": None})
        if better["sort"] is not None:
            keys = get_close_matches(better["sort"], SORTS, n=1)
            better["sort"] = keys[0] if keys else None
        about_times = (better["sort"] in ("bound", "time"), better["channels_last"], better["threads"] is not None)
        better["time"] = better["time"] or any(about_times) or better["device"] != "cpu"
        if better == given:
            better["device"] = "cpu"
        return call_of(click.get_current_context(), better)
    return ""
