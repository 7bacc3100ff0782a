# SPDX-License-Identifier: Apache-2.0
"""``omniconv accelerate MODEL``: a trained model made faster, with the same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .leaving import CheckFailed, Refused
from .tail import Tail, examples, tail
from .values import SHAPE

EXAMPLES = examples(
    "accelerate mymodels.py:mobilenet --input 1,3,224,224",
    "accelerate package.models:Net --input 8,3,64,64 --save net.pt",
    "accelerate net.py:net --input 1,3,224,224 --dry-run --json",
)
LAYOUTS = ("auto", "in order", "channels last")


@click.command("accelerate", epilog=EXAMPLES)
@click.argument("model")
@click.option(
    "-i", "--input", "shapes", type=SHAPE, multiple=True, required=True, help="A shape, 1,3,224,224; once per input."
)
@click.option("--dry-run", is_flag=True, help="Say what would be changed; prove, time and write nothing.")
@click.option(
    "--save", type=click.Path(path_type=Path, dir_okay=False), help="Write the network, for omniconv.load(PATH)."
)
@click.option("--layout", type=click.Choice(LAYOUTS), default="auto", help="auto: the faster of the two.")
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, help="How long to time; 0 leaves it out.")
@click.option("--threads", type=click.IntRange(1), help="Threads to run with.")
@tail
def command(
    *,
    model: str,
    shapes: tuple[tuple[int, ...], ...],
    dry_run: bool,
    save: Path | None,
    layout: str,
    seconds: float,
    threads: int | None,
    tail: Tail,
) -> None:
    """Fold, fuse and pack what a model computes in inference, prove that its outputs stay the same, and time it.

    MODEL is package.module:callable or file.py:callable, a torch.nn.Module or something that returns one. Its code is
    run in evaluation mode, on random numbers of the shapes given and of others. Exit code 3: it could not be proved.
    """
    if save is not None:
        if dry_run:
            raise Refused(f"`--save` (={save}) and --dry-run exclude each other; use one of them.")
        tail.check(save)
    from .loading import load

    tail.progress("loading the model")
    loaded = load(model)
    tail.progress("looking for what can be changed" if dry_run else "accelerating the model")
    try:
        found = _accelerated(loaded, shapes, dry_run, layout, seconds, threads)
    except (ValueError, TypeError) as error:
        raise Refused(str(error)) from error
    tail.emit(found.report)
    if found.report.refused:
        tail.warn(found.report.refused)
    if found.report.refused.startswith("the whole was not proved"):
        raise CheckFailed(found.report.refused)
    if save is not None:
        try:
            found.save(save, overwrite=tail.force)
        except ValueError as error:
            raise Refused(f"`--save` (={save}): {error}") from error
        tail.note(f"wrote {save}")


def _accelerated(
    model: Any, shapes: tuple[tuple[int, ...], ...], dry_run: bool, layout: str, seconds: float, threads: int | None
) -> Any:
    import torch

    from omniconv.convert.accelerate.accelerated import accelerate

    if threads is not None:
        torch.set_num_threads(threads)
    weight = next(model.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    example = tuple(torch.randn(shape, generator=generator).to(weight) for shape in shapes)
    return accelerate(model, example, layout=layout, seconds=0 if dry_run else seconds, verify=not dry_run)
