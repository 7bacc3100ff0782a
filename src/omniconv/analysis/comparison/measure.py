# SPDX-License-Identifier: Apache-2.0
"""The times of a comparison: every layer checked against its formula, then all of them timed in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from omniconv.analysis.comparison.result import Comparison, Measured, Part, Row
from omniconv.analysis.comparison.verify import complaint
from omniconv.analysis.machine import Machine, better, measure_machine
from omniconv.analysis.timing import Timing, interleaved, rank, ratios, synchronizer
from omniconv.core.family import family_of
from omniconv.core.problem import ConvProblem

Report = Callable[[str], None] | None
MILLI = 1e3


def measured(comparison: Comparison, threads: int | None, seconds: float, report: Report) -> Comparison:
    """The comparison with bounds and times of every row.

    Args:
        comparison: what was counted; its options say where and in what to compute.
        threads: to compute with; None for as many as torch uses now.
        seconds: for the timing of all layers together.
        report: told what is being done.
    """
    say = report or _silent
    options = comparison.options
    say("measuring the machine")
    machine = measure_machine(options["dtype"], options["device"], threads)
    problems = {str(p): p for row in comparison.rows for p in (row.standard, row.problem) if p is not None}
    with torch.no_grad(), _seeded(machine.threads):
        calls: dict[str, Callable[[], object]] = {}
        wrong: dict[str, str] = {}
        for text, problem in problems.items():
            say(f"checking {text}")
            call, wrong[text] = _prepared(problem, machine, channels_last=options["channels_last"])
            if call is not None:
                calls[text] = call
        say(f"timing {len(calls)} layers for {seconds:.0f} s")
        timings = interleaved(calls, seconds=seconds, synchronize=synchronizer(machine.device))
    say("measuring the machine again")
    machine = better(machine, measure_machine(options["dtype"], options["device"], threads))
    rows = tuple(_timed(row, machine, timings, wrong) for row in comparison.rows)
    return replace(comparison, rows=_ranked(rows, timings), machine=machine.to_dict())


def _prepared(
    problem: ConvProblem, machine: Machine, *, channels_last: bool
) -> tuple[Callable[[], object] | None, str]:
    """The call to time, unless its answer is wrong or it cannot run; and why not."""
    dtype = getattr(torch, machine.dtype)
    try:
        layer = family_of(problem).layer_of(problem, machine.device, dtype).eval()
        _stir(layer)
        shape = (problem.batch or 1, problem.in_channels, *(problem.in_size or ()))
        input = torch.randn(shape, device=machine.device, dtype=dtype)
        if channels_last:
            layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(input.dim(), torch.contiguous_format)
            input = input.contiguous(memory_format=layout)
            for parameter in layer.parameters():
                if parameter.dim() == input.dim():  # Module.to() fails on weights with fewer axes
                    parameter.data = parameter.data.contiguous(memory_format=layout)
        said = complaint(layer, input, problem)
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        # AttributeError: a family without `from_problem`.
        return None, f"not run: {str(error).splitlines()[0]}"
    return (None, said) if said else ((lambda: layer(input)), "")


def _stir(layer: nn.Module) -> None:
    """Give what starts at zero random values: offsets of zero would sample on the grid, where memory is kindest."""
    for parameter in layer.parameters():
        if not bool(parameter.any()):
            nn.init.normal_(parameter, std=0.05)


def _timed(row: Row, machine: Machine, timings: dict[str, Timing], wrong: dict[str, str]) -> Row:
    if row.problem is None:
        return row
    parts = tuple(_bounded(part, machine) for part in row.parts)
    kinds = {part.bound_by for part in parts if part.bound_by}
    bound = sum(part.bound_ms or 0.0 for part in parts)
    found = Measured(bound, kinds.pop() if len(kinds) == 1 else "mixed", wrong=wrong[str(row.problem)])
    timing = timings.get(str(row.problem))
    if timing is not None:
        standard = str(row.standard)
        beside = ratios({standard: timings[standard], "": timing}, standard)[""].median if standard in timings else None
        found = replace(
            found,
            time_ms=timing.median * MILLI,
            time_q1=timing.q1 * MILLI,
            time_q3=timing.q3 * MILLI,
            time_ratio=beside,
            noisy=timing.noisy,
        )
    return replace(row, parts=parts, measured=found)


def _bounded(part: Part, machine: Machine) -> Part:
    bound = machine.roofline(part.flops, part.bytes)
    return replace(part, bound_ms=bound.seconds * MILLI, bound_by=bound.binds)


def _ranked(rows: tuple[Row, ...], timings: dict[str, Timing]) -> tuple[Row, ...]:
    """Rows marked where the interval of another shown row overlaps their own."""
    shown = {row.family: timings[str(row.problem)] for row in rows if str(row.problem) in timings}
    ranking = rank(shown)
    return tuple(
        replace(row, measured=replace(row.measured, tied=ranking.mark(row.family) == "≈")) if row.measured else row
        for row in rows
    )


def _silent(text: str) -> None:
    """Say nothing."""


@contextmanager
def _seeded(threads: int) -> Iterator[None]:
    """Random numbers that are the same every time, and the threads asked for; both put back."""
    before: Any = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
