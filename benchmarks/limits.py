# SPDX-License-Identifier: Apache-2.0
"""What keeps the problems below their share of the roofline from it, measured on this machine.

python benchmarks/limits.py RESULT.json --rt

Two limits lie between a roofline and a call. A kernel whose loads and products do not overlap takes the time of both,
not that of the longer: `apart`. And a training step goes through torch's autograd, whose code large tensors have driven
out of the caches: `autograd` is what a step on two numbers takes behind the kernels, whatever kernels they are (0 where
the noise of a longer problem hides it). Of both limits together, a call reaches a share, and its target asks for one:
at 100 % the target is the limit. Kernels of problems that something follows are not called apart: there they are the
whole call.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from omniconv.analysis.benchmark.measure import SAMPLE, SETTLE, ours
from omniconv.analysis.benchmark.operands import operands_of
from omniconv.analysis.benchmark.peers.plain import answered
from omniconv.analysis.benchmark.problems import Benchmark, every
from omniconv.analysis.benchmark.scheduling import real_time
from omniconv.analysis.machine import Machine, better, measure_machine
from omniconv.analysis.timing import Timing, interleaved
from omniconv.core.library import absent
from omniconv.core.register import Plan
from results import read
from targets import below

Call = Callable[[], object]
HEAD = "".join(
    f"{name:>10}" for name in ("roofline", "apart", "kernels", "autograd", "call", "reached", "asked", "meant")
)


class Measured(NamedTuple):
    """Seconds of one problem."""

    benchmark: Benchmark
    call: float
    kernels: float
    autograd: float

    def line(self, machine: Machine, meant: float) -> str:
        """The times in ms, the shares of both limits that are reached and asked for, and that of the roofline."""
        flops, nbytes = self.benchmark.work()
        roofline = machine.roofline(flops, nbytes).seconds
        apart = flops / machine.peak + nbytes / machine.bandwidth(nbytes)
        limit = apart + self.autograd
        cells = "".join(f"{1e3 * t:10.3f}" for t in (roofline, apart, self.kernels, self.autograd, self.call))
        return f"{self.benchmark.name:<34}{cells}{limit / self.call:10.0%}{limit * meant / roofline:10.0%}{meant:10.2f}"


def measured(benchmark: Benchmark, seconds: float, *, rt: bool) -> Measured:
    """The whole call, its compiled kernels without autograd, and these with a step of autograd on two numbers."""
    operands = operands_of(benchmark, "cpu")
    plan = Plan(benchmark.problem)
    call = answered(ours(benchmark, operands), operands).run
    kernels = call if benchmark.followed else kernels_of(plan, operands.tensors, operands.gradient)
    one, other, unit = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True), torch.ones(1)
    calls: dict[str, Call] = {"call": call, "kernels": kernels}
    if benchmark.training:
        calls["behind"] = lambda: (kernels(), torch.autograd.grad(one * other, (one, other), unit))
    with torch.inference_mode(mode=not benchmark.training), real_time(wanted=rt):
        found = interleaved(calls, seconds=seconds, sample_seconds=SAMPLE, settle_seconds=SETTLE)
    autograd = 0.0
    if benchmark.training:
        pairs = zip(found["behind"].samples, found["kernels"].samples, strict=True)
        more = Timing.of([behind - alone for behind, alone in pairs])
        autograd = more.median if more.iqr < more.median else 0.0
    return Measured(benchmark, found["call"].median, found["kernels"].median, autograd)


def kernels_of(plan: Plan, tensors: tuple[Any, ...], gradient: torch.Tensor | None) -> Call:
    """The compiled operators of a problem: forward, and where there is a gradient, backward with all gradients."""
    native: Any = plan._native  # noqa: SLF001  # no public call leaves out autograd, nor takes
    flat = plan._flat  # noqa: SLF001  # the numbers that such a call needs
    given = [None if tensor is None else tensor.detach() for tensor in tensors]
    if gradient is None:
        return lambda: native.call(*given, flat)
    wanted = sum(1 << at for at, tensor in enumerate(given) if tensor is not None)
    return lambda: (native.call(*given, flat), native.call_backward(gradient, *given, flat, wanted))


def main(arguments: list[str] | None = None) -> int:
    """Measure the problems that a result file has below their share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each problem")
    parser.add_argument("--rt", action="store_true", help="real-time scheduling while timing")
    options = parser.parse_args(arguments)
    if why := absent():
        parser.error(f"{why}; the kernels are what is measured.")
    shares = below(read(options.result, parser)["rows"])
    with real_time(wanted=options.rt):
        machine = measure_machine()
    found = [measured(one, options.seconds, rt=options.rt) for one in every() if one.name in shares]
    with real_time(wanted=options.rt):
        machine = better(machine, measure_machine())
    print(f"{machine.name}, {machine.threads} threads, torch {machine.torch}; ms, and shares of apart + autograd")
    print(f"{'problem':<34}{HEAD}", *(one.line(machine, shares[one.benchmark.name]) for one in found), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
