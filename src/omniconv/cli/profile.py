# SPDX-License-Identifier: Apache-2.0
"""``omniconv profile MODEL``: a model, layer by layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .asserting import CONDITION, Condition
from .leaving import CheckFailed, Refused
from .tail import Tail, examples, tail
from .values import SHAPE

EXAMPLES = examples(
    "profile mymodels.py:mobilenet --input 1,3,224,224",
    "profile package.models:Net --input 8,3,64,64 --depth 2 --time",
    "profile net.py:net --input 1,3,224,224 --assert 'macs<=600M' --json",
)


@click.command("profile", epilog=EXAMPLES)
@click.argument("model")
@click.option(
    "-i", "--input", "shapes", type=SHAPE, multiple=True, required=True, help="A shape, 1,3,224,224; once per input."
)
@click.option("--time", is_flag=True, help="Measure each product, and the machine.")
@click.option("--depth", type=click.IntRange(1), help="How deep to look into the model; without it, every layer.")
@click.option("--top", type=click.IntRange(1), help="Show the layers with most multiply-adds only.")
@click.option("--threads", type=click.IntRange(1), help="Threads to run with.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write one page that needs nothing else."
)
@click.option("--assert", "conditions", type=CONDITION, multiple=True, help="'macs<=600M': exit 3 unless it holds.")
@tail
def command(
    *,
    model: str,
    shapes: tuple[tuple[int, ...], ...],
    time: bool,
    depth: int | None,
    top: int | None,
    threads: int | None,
    html: Path | None,
    conditions: tuple[Condition, ...],
    tail: Tail,
) -> None:
    """Count what every layer of a model costs: parameters, multiply-adds, bytes, receptive field, and time if asked.

    MODEL is package.module:callable or file.py:callable, a torch.nn.Module or something that returns one. Its code is
    run, once, in evaluation mode, on random numbers of the shapes given.
    """
    from .loading import load

    tail.progress("loading the model")
    loaded = load(model)
    tail.progress("running the model")
    try:
        found = _profile(loaded, shapes[0] if len(shapes) == 1 else shapes, time, depth, threads, tail)
    except (ValueError, TypeError) as error:
        raise Refused(str(error)) from error
    if top is not None:
        found = replace(found, top=top)
    tail.emit(found)
    if html is not None:
        tail.write(html, found.to_html(tail.lang))
    if wrong := [said for condition in conditions if (said := condition.complaint(found))]:
        raise CheckFailed("\n".join(wrong))


def _profile(model: Any, input: Any, time: bool, depth: int | None, threads: int | None, tail: Tail) -> Any:
    import torch

    from omniconv.analysis.profiling.profile import profile

    if threads is not None:
        torch.set_num_threads(threads)
    machine = None
    if time:
        from omniconv.analysis.machine import measure_machine

        tail.progress("measuring the machine")
        weight = next(model.parameters(), torch.empty(0))
        machine = measure_machine(weight.dtype, weight.device)
        tail.progress("timing the layers")
        if machine.noisy:
            tail.warn(f"this machine is noisy ({machine.noise:.0%}): read times with care.")
    return profile(model, input, depth=depth, time=time, machine=machine)
