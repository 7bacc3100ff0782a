# SPDX-License-Identifier: Apache-2.0
"""``omniconv doctor``: this installation and this machine."""

from __future__ import annotations

import click

from .leaving import Refused
from .tail import DTYPES, NOISY, Tail, tail


@click.command("doctor")
@click.option("--device", default="cpu", show_default=True, help="Where to measure.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="What to compute in.")
@click.option("--threads", type=int, help="Threads to measure with.")
@tail
def command(*, device: str, dtype: str, threads: int | None, tail: Tail) -> None:
    """Say what this machine can do at best, how steady it is, and what is missing. Measuring takes three seconds."""
    from omniconv.analysis.doctor import doctor

    try:
        found = doctor(device, dtype, threads, tail.progress)
    except (ValueError, TypeError) as error:
        raise Refused(str(error)) from error
    if found.machine is not None and found.machine["noise"] > NOISY:
        tail.warn(f"this machine is noisy ({found.machine['noise']:.0%}): times measured now will not be ranked.")
    tail.emit(found)
    if not found.healthy:
        raise click.ClickException("torch is missing; without it convolutions are counted but neither run nor timed.")
