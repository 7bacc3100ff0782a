# SPDX-License-Identifier: Apache-2.0
"""Rows of a profile put together: by the module they lie below, or because they are too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from omniconv.analysis.profiling.result import OTHER, Profile, Row
from omniconv.analysis.timing import Timing


def shown(profile: Profile) -> list[Row]:
    """The rows of the table: every product, or what lies below each module of the wanted depth; all else in one."""
    if profile.depth is None:
        products = [row for row in profile.rows if row.family != OTHER or row.uncounted]
    else:
        products = below(profile.rows, profile.depth)
    kept = profile.largest(products)
    numbers = {id(row) for row in kept}
    rest = [row for row in products if id(row) not in numbers]
    rest += [row for row in profile.rows if row.family == OTHER and not row.uncounted] if profile.depth is None else []
    name = f"{len(rest)} other {'calls' if profile.depth is None else 'modules'}"
    return kept + ([replace(together(rest), name=name)] if rest else [])


def below(rows: Sequence[Row], depth: int) -> list[Row]:
    """One row for each run of rows inside a module of this depth."""

    def module(row: Row) -> str:
        return ".".join(row.name.split(".")[:depth])

    return [replace(together(list(inside)), name=name) for name, inside in groupby(rows, module)]


def together(rows: Sequence[Row]) -> Row:
    """Several rows as one, named by what multiplies in them."""
    kinds = Counter(row.family for row in rows if row.family != OTHER)
    families = [name if count == 1 else f"{name} ×{count}" for name, count in kinds.items()]
    operators: Counter[str] = Counter()
    uncounted: Counter[str] = Counter()
    for row in rows:
        operators.update(dict(row.operators))
        uncounted.update(dict(row.uncounted))
    sizes = [row.sizes for row in rows if row.sizes]
    channels = [row.channels for row in rows if row.channels]
    batches = {row.batch for row in rows if row.batch is not None}
    return Row(
        name=rows[0].name,
        module=rows[0].module,
        call=rows[0].call if len({row.name for row in rows}) == 1 else 1,
        family=", ".join(families) or OTHER,
        operators=tuple(operators.items()),
        params=sum(row.params for row in rows),
        shared_params=sum(row.shared_params for row in rows),
        macs=sum(row.macs for row in rows),
        bias_adds=sum(row.bias_adds for row in rows),
        sampling=sum(row.sampling for row in rows),
        exponentials=sum(row.exponentials for row in rows),
        other_ops=sum(row.other_ops for row in rows),
        bytes=sum(row.bytes for row in rows),
        channels=(channels[0][0], channels[-1][1]) if channels else None,
        sizes=(sizes[0][0], sizes[-1][1]) if sizes else None,
        batch=batches.pop() if len(batches) == 1 else None,
        uncounted=tuple(uncounted.items()),
        receptive_field=next((row.receptive_field for row in reversed(rows) if row.receptive_field), None),
        time=_summed([row.time for row in rows if row.time is not None]),
        parts=tuple(rows),
    )


def _summed(times: Sequence[Timing]) -> Timing | None:
    """Times of the same rounds, added round by round."""
    return Timing.of([sum(samples) for samples in zip(*(t.samples for t in times), strict=True)]) if times else None
