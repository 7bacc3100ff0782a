# SPDX-License-Identifier: Apache-2.0
"""Benchmarks run: every answer checked, then omniconv and its peers timed in the same rounds."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import nn

import omniconv
from omniconv.analysis.benchmark.answer import complaint, right_answer
from omniconv.analysis.benchmark.operands import Operands, operands_of
from omniconv.analysis.benchmark.peers import Call, Unavailable, prepared, version
from omniconv.analysis.benchmark.peers.plain import Function, answered
from omniconv.analysis.benchmark.problems import Benchmark
from omniconv.analysis.benchmark.result import Bench, Beside, Row, Spread
from omniconv.analysis.benchmark.scheduling import real_time
from omniconv.analysis.machine import Machine, better, measure_machine
from omniconv.analysis.timing import interleaved, ratios, synchronizer
from omniconv.core.choose import choose
from omniconv.core.register import Plan

Report = Callable[[str], None]
OURS = "omniconv"
MILLI = 1e3
# A sample must outlast what a thread waking late adds to it, and by then the threads of the library before must sleep.
# After 3 ms of settling OpenVINO took 2.2 and JAX 1.9 times as long as alone (K=31 over 8×512×400), after 12 ms 1.5 and
# 1.1, after 24 ms both as long as alone.
SAMPLE, SETTLE = 5e-3, 25e-3


def measured(
    chosen: Sequence[Benchmark],
    names: Sequence[str],
    *,
    seconds: float,
    threads: int | None,
    device: str,
    rt: bool,
    report: Report,
    warn: Report,
) -> Bench:
    """The times of benchmarks beside the peers ``names``; the other arguments are those of ``bench``.

    The machine is measured first and last, and what it could do at its better moment counts. The first time also leaves
    malloc as a network would: with thresholds at which an output no longer costs fresh pages at each call.
    """
    with real_time(wanted=rt) as refused:
        if refused:
            warn(refused)
            rt = False
        report("measuring the machine")
        machine = measure_machine("float32", device, threads)
    rows = []
    with _threads(machine.threads):
        for at, benchmark in enumerate(chosen, 1):
            report(f"{at} of {len(chosen)}: {benchmark.name}")
            rows.append(_row(benchmark, names, machine, seconds, rt=rt))
            report(f"{at} of {len(chosen)}: {rows[-1]}")
    report("measuring the machine again")
    with real_time(wanted=rt):
        machine = better(machine, measure_machine("float32", device, threads))
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: version(name) or "" for name in names}
    options = {"seconds": seconds, "rt": rt, "peers": list(names)}
    bounded = tuple(replace(row, bound=machine.roofline(*row.benchmark.work())) for row in rows)
    return Bench(bounded, machine.to_dict(), omniconv.__version__, versions, options)


def _row(benchmark: Benchmark, names: Sequence[str], machine: Machine, seconds: float, *, rt: bool) -> Row:
    """One benchmark: nothing is timed whose answer is wrong, and nothing at all where omniconv's is."""
    operands = operands_of(benchmark, machine.device)
    kernel = _kernel(benchmark, machine.device)
    right = right_answer(benchmark, operands)
    calls: dict[str, Callable[[], object]] = {}
    beside: dict[str, Beside] = {}

    def admit(name: str, prepare: Callable[[], Call]) -> str:
        try:
            call = prepare()
            said = complaint(call.read(call.run()), right, getattr(torch, benchmark.dtype))
        except Unavailable as why:
            return str(why)
        except Exception as error:  # noqa: BLE001  # whatever another library raises is told in its cell
            return f"failed: {next(iter(str(error).splitlines()), type(error).__name__)}"
        if not said:
            calls[name] = call.run
        return f"wrong: {said}" if said else ""

    with torch.inference_mode(mode=not benchmark.training):
        if wrong := admit(OURS, lambda: answered(ours(benchmark, operands), operands)):
            return Row(benchmark, kernel, wrong=wrong)
        for name in names:
            if why := admit(name, partial(prepared, name, benchmark, operands, machine.threads)):
                beside[name] = Beside(why=why)
        with real_time(wanted=rt):
            timings = interleaved(
                calls,
                seconds=seconds,
                sample_seconds=SAMPLE,
                settle_seconds=SETTLE,
                synchronize=synchronizer(machine.device),
            )
    over = ratios(timings, OURS)
    beside |= {
        name: Beside(Spread.of(timing, MILLI), Spread.of(over[name]))
        for name, timing in timings.items()
        if name != OURS
    }
    ms = Spread.of(timings[OURS], MILLI)
    ordered = {name: beside[name] for name in names}
    return Row(benchmark, kernel, ms, noisy=timings[OURS].noisy, peers=ordered)


def ours(benchmark: Benchmark, operands: Operands) -> Function:
    """The function of the operands: a plan, or where something follows, the family's layer with them as parameters."""
    family = benchmark.family
    if not benchmark.followed:
        return Plan(benchmark.problem)
    if family.benchmarks.followed is None:
        raise ValueError(f"{benchmark.name}: {family.name} has no layer with an activation.")
    activation = getattr(nn.functional, benchmark.activation) if benchmark.activation else None
    layer: nn.Module = family.benchmarks.followed(benchmark.problem, activation)
    for name, operand in list(zip(family.tensor_names, operands.tensors, strict=True))[1:]:
        layer._parameters[name] = operand  # type: ignore[assignment]  # noqa: SLF001  # a leaf serves as well
    return (lambda x, *others: layer(x, others[-1])) if benchmark.add else lambda x, *_: layer(x)


def _kernel(benchmark: Benchmark, device: str) -> str:
    """The name of the kernel that runs: the chooser knows no layout, and a compiled one may leave it to ATen."""
    choice = choose(benchmark.problem, benchmark.dtype, device)
    leaves = choice.kernel.leaves
    left = benchmark.layout == "cl" and leaves is not None and benchmark.dtype in leaves(benchmark.problem)
    return (choice.portable if left else choice.kernel).name


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
