# SPDX-License-Identifier: Apache-2.0
"""``omniconv families``: what there is, under which names."""

from __future__ import annotations

import click

from .tail import Tail, tail


@click.command("families")
@click.option("--dim", type=click.IntRange(1, 3), help="Only those that exist in so many dimensions.")
@tail
def command(*, dim: int | None, tail: Tail) -> None:
    """List the convolutions: names, Korean names, aliases, dimensions, and what each equals exactly."""
    from omniconv.analysis.catalogue import families

    tail.emit(families(dim))
