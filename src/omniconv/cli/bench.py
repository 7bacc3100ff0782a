# SPDX-License-Identifier: Apache-2.0
"""``omniconv bench [REGEX]``: named problems, timed beside other libraries and the machine's roofline."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import click

from omniconv.analysis.benchmark.peers import PEERS
from omniconv.analysis.benchmark.problems import DTYPES, LAYOUTS, MODES, benchmarks

from .leaving import Refused
from .tail import NOISY, Tail, examples, tail

EXAMPLES = examples(
    "bench dw7_56x96",
    "bench '^mamba' --peers torch,compile --seconds 1",
    "bench 'relu6' --peers torch,onnxruntime",
    "bench 'depthwise 2-D' --mode training --layout cl -o times.csv",
)


@click.command("bench", epilog=EXAMPLES)
@click.argument("regex", metavar="[REGEX]", default="")
@click.option("--peers", metavar="NAME[,…]", help=f"{', '.join(PEERS)}; without it, those installed.")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="To time each problem for.")
@click.option("--dtype", type=click.Choice(DTYPES), help="Only problems in it.")
@click.option("--layout", type=click.Choice(LAYOUTS), help="Only problems in it: channels first, or last in memory.")
@click.option("--mode", type=click.Choice(MODES), help="Only problems in it; training computes all gradients too.")
@click.option("--threads", type=int, help="Threads to measure with.")
@click.option("--device", default="cpu", show_default=True, help="Where to measure.")
@click.option("--rt", is_flag=True, help="Real-time scheduling while timing, where that is permitted.")
@tail
def command(*, regex: str, peers: str | None, tail: Tail, **options: Any) -> None:
    """Time named problems: all of them, or those whose name, group or problem string REGEX matches somewhere.

    Every answer is checked against the formula in float64, then omniconv and its peers are timed in the same rounds.
    The table shows milliseconds, how many times faster omniconv is than each peer, and the share of the machine's
    roofline. All of them take about twenty minutes. Names end in a layout (cf, cl), then bf16, the activation that
    follows (relu, relu6, silu, gelu, hardswish), add for a residual added before it, and train, each where it holds.
    """
    from omniconv.analysis.benchmark.bench import bench

    names = None if peers is None else [name.strip() for name in peers.split(",") if name.strip()]
    try:
        found = bench(regex, peers=names, **options, report=tail.progress, warn=tail.warn)
    except (ValueError, TypeError) as error:
        raise Refused(str(error), _nearest(regex)) from error
    if found.machine["noise"] > NOISY:
        tail.warn(f"this machine is noisy ({found.machine['noise']:.0%}): close what else runs, and measure again.")
    tail.emit(found)
    if found.wrong:
        raise click.ClickException("; ".join(found.wrong))


def _nearest(regex: str) -> str:
    """The call with the name or group that a pattern without any match is nearest to, or ""."""
    with suppress(ValueError):
        if benchmarks(regex):
            return ""
    words = dict.fromkeys(word for found in benchmarks() for word in (found.name.split("/")[0], found.group))
    close = get_close_matches(regex, list(words), n=1, cutoff=0.4)
    return f"omniconv bench '{close[0]}'" if close else ""
