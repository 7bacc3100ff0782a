# SPDX-License-Identifier: Apache-2.0
"""The most memory that a training step holds at once, at growing sizes, beside what its tensors take.

python benchmarks/memory.py                      the deformable layer; writes its result and docs/figures/memory.svg
python benchmarks/memory.py 'dynamic:c64_…'      another problem, by its string, or by its name in `omniconv bench`

A step is forward and backward with the gradients of all tensors. *Tensors* are the arguments, the output, and a
gradient of each. Every size runs in a process of its own, with compiled kernels and without, after a step on a few
numbers, which loads code and starts threads; what the process holds then is taken off. The peak is Linux's: writing 5
to /proc/self/clear_refs sets its mark of the most resident memory (VmHWM) to what is resident, and the mark rises with
every page, whoever asked for it: torch, oneDNN or we. It is exact to a quarter of a MiB. glibc would keep what is freed
for the next call, which counts as resident: so it is told to give back every piece of 64 KiB or more.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from math import prod
from pathlib import Path
from typing import Any

import torch

from omniconv import __version__
from omniconv.analysis.benchmark.operands import Operands, operands_of
from omniconv.analysis.benchmark.problems import DTYPES, Benchmark, every
from omniconv.analysis.machine import measure_machine
from omniconv.core.family import family_of
from omniconv.core.library import absent
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from omniconv.report.files import write
from results import HERE, path_for
from run import commit, say

DEFAULT = "deform2_56x64"
SIDES = (28, 40, 56, 80, 112, 160, 224, 320)  # of images; sequences and volumes have as many positions
STATUS, MARK = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
MIB = 2**20
# Kernels and layout; the environment that they ask for, their colour, and whether their mark is a ring.
WAYS: dict[str, tuple[dict[str, str], str, bool]] = {
    "native/cf": ({}, "#2f81f7", False),
    "native/cl": ({}, "#2f81f7", True),
    "aten/cf": ({"OMNICONV_NATIVE": "0"}, "#e0752d", False),
}
FIGURE = HERE.parent / "docs" / "figures" / "memory.svg"
INK, FAINT = "#768390", "#76839055"
LEFT, PANEL, GAP, TALL, TOP, BOTTOM = 56, 300, 90, 220, 76, 44


@dataclass(frozen=True)
class Step:
    """One training step: its problem with a size, and the type of its tensors."""

    problem: ConvProblem
    dtype: str

    def operands(self, layout: str) -> Operands:
        """Its tensors."""
        return operands_of(Benchmark("", "", self.problem, layout, self.dtype, "training"), "cpu")

    def tensors(self) -> int:
        """Bytes of the arguments, the output, and their gradients."""
        shapes = [shape for shape in family_of(self.problem).tensors(self.problem).values() if shape is not None]
        output = (self.problem.batch or 1, self.problem.out_channels, *self.problem.out_size)
        return 2 * sum(map(prod, [*shapes, output])) * (4 if self.dtype == "float32" else 2)

    def run(self, layout: str) -> int:
        """The most bytes that the step holds at once, in this process."""
        few = replace(self, problem=self.problem.at(tuple(self.problem.span), 1))
        few.taken(few.operands(layout))
        gc.collect()
        before = resident("VmRSS")
        operands = self.operands(layout)
        gc.collect()
        MARK.write_text("5")
        self.taken(operands)
        return resident("VmHWM") - before

    def taken(self, operands: Operands) -> None:
        """Take the step, and hold all that it made until it is done."""
        output = Plan(self.problem)(*operands.tensors)
        gradients = torch.autograd.grad(output, operands.leaves, operands.gradient)
        del output, gradients


def resident(name: str) -> int:
    """A number of bytes that /proc/self/status has in kB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def apart(step: Step, way: str) -> int:
    """``Step.run`` in a process of its own."""
    command = [sys.executable, __file__, str(step.problem), "--alone", way, "--dtype", step.dtype]
    environment = os.environ | GIVE_BACK | WAYS[way][0]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def steps_of(text: str, sides: list[int], dtype: str) -> list[Step]:
    """A step for each size, of the problem that ``text`` names or spells."""
    named = {benchmark.name.split("/")[0]: benchmark.problem for benchmark in every()}
    problem = named.get(text) or ConvProblem.parse(text)
    sizes = (tuple([round(side ** (2 / problem.dim))] * problem.dim) for side in sides)
    return [Step(problem.at(size, problem.batch), dtype) for size in sizes]


def measured(steps: list[Step], ways: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each step."""
    for step in steps:
        size = "×".join(map(str, step.problem.in_size or ()))
        say(f"measuring {size}")
        peaks = {way: apart(step, way) for way in ways}
        yield {"problem": str(step.problem), "size": size, "tensors": step.tensors(), "peak": peaks}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rows in MiB, each peak beside how many times its tensors it is."""
    ways = list(rows[0]["peak"])
    yield f"| size | tensors, MiB | {' | '.join(f'{way}, MiB | of its tensors' for way in ways)} |"
    yield "|---" * (2 + 2 * len(ways)) + "|"
    for row in rows:
        cells = (f"{row['peak'][way] / MIB:.1f} | {row['peak'][way] / row['tensors']:.2f}" for way in ways)
        yield f"| {row['size']} | {row['tensors'] / MIB:.1f} | {' | '.join(cells)} |"


def drawn(result: dict[str, Any]) -> str:
    """The peaks over the size of the tensors as SVG: all of them, then the least of them alone."""
    rows, ways = result["rows"], list(result["rows"][0]["peak"])
    width, height = 2 * (LEFT + PANEL) + GAP - LEFT + 30, TOP + TALL + BOTTOM
    title = f"The most memory of a training step: {rows[0]['problem'].split(':')[0]}, omniconv {result['version']}"
    body = [f'<text x="0" y="16" font-size="14" font-weight="600">{escape(title)}</text>']
    for at, way in enumerate(ways):
        body.append(f'{_mark(way, str(8 + 110 * at), "36")}/><text x="{18 + 110 * at}" y="40">{way}</text>')
    body.append(f'<path d="M340 36h20" stroke="{INK}" stroke-dasharray="4 3"/>')
    body.append('<text x="366" y="40">its tensors: arguments, output, gradients</text>')
    for at, shown in enumerate((ways, ways[:2])):
        body += _panel(rows, shown, LEFT + at * (PANEL + GAP))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui,sans-serif" font-size="11" fill="{INK}" role="img">\n'
        f"<title>{escape(title)}</title>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _panel(rows: list[dict[str, Any]], ways: list[str], left: int) -> Iterator[str]:
    most_x = max(row["tensors"] for row in rows) / MIB
    most_y = max(row["peak"][way] for row in rows for way in ways) / MIB
    foot = TOP + TALL

    def at(x: float, y: float) -> str:
        return f"{left + PANEL * x / MIB / most_x:.1f} {foot - TALL * y / MIB / most_y:.1f}"

    for tick in ticks(most_y):
        y = foot - TALL * tick / most_y
        yield f'<path d="M{left} {y:.1f}h{PANEL}" stroke="{FAINT}"/>'
        yield f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" font-size="10">{tick:g}</text>'
    for tick in ticks(most_x):
        x = left + PANEL * tick / most_x
        yield f'<text x="{x:.1f}" y="{foot + 16}" text-anchor="middle" font-size="10">{tick:g}</text>'
    yield f'<text x="{left}" y="{TOP - 12}">peak, MiB</text>'
    yield f'<text x="{left + PANEL}" y="{foot + 34}" text-anchor="end">tensors, MiB</text>'
    yield f'<path d="M{at(0, 0)}L{at(most_x * MIB, most_x * MIB)}" stroke="{INK}" stroke-dasharray="4 3"/>'
    for way in ways:
        points = [at(row["tensors"], row["peak"][way]) for row in rows]
        yield f'<path d="M{"L".join(points)}" stroke="{WAYS[way][1]}" stroke-opacity=".45" fill="none"/>'
        for row, point in zip(rows, points, strict=True):
            peak = row["peak"][way]
            said = f"{way}, {row['size']}: {peak / MIB:.1f} MiB, {peak / row['tensors']:.2f} of its tensors"
            yield f"{_mark(way, *point.split())}><title>{escape(said)}</title></circle>"


def _mark(way: str, x: str, y: str) -> str:
    """The beginning of a dot, or of a ring."""
    _, colour, ring = WAYS[way]
    filled = f'fill="none" stroke="{colour}" stroke-width="2"' if ring else f'fill="{colour}"'
    return f'<circle cx="{x}" cy="{y}" r="{3.5 if ring else 4}" {filled}'


def ticks(most: float) -> list[float]:
    """Round numbers from 0 to ``most``, four to nine of them."""
    scale = 10.0 ** (len(str(int(most))) - 1)
    step = next(part * scale for part in (0.1, 0.2, 0.5, 1, 2) if most / (part * scale) <= 8)
    return [step * number for number in range(int(most / step) + 1)]


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", nargs="?", default="", help="a problem string, or a name that `omniconv bench` has")
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES), help="of images with as many positions")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    parser.add_argument("-o", "--output", type=Path, help="result file; by default none is written for a problem given")
    parser.add_argument("--figure", type=Path, help="the same for its figure")
    parser.add_argument("--alone", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not MARK.exists():
        parser.error(f"there is no {MARK}; only Linux tells the peak of a process from a moment on.")
    if options.alone:
        print(Step(ConvProblem.parse(options.problem), options.dtype).run(options.alone.split("/")[1]))
        return 0
    try:
        steps = steps_of(options.problem or DEFAULT, options.sides, options.dtype)
    except ValueError as error:
        parser.error(str(error))
    rows = list(measured(steps, [way for way in WAYS if not absent() or way.startswith("aten")]))
    machine = {field: getattr(measure_machine(), field) for field in ("name", "device", "threads", "torch")}
    result = {"version": __version__, "commit": commit(), "machine": machine, "rows": rows}
    print(rows[-1]["problem"], "", *table(rows), sep="\n")
    where = path_for(__version__, machine)
    output = options.output or (None if options.problem else where.with_name(f"memory-{where.name}"))
    for path, text in (
        (output, lambda: json.dumps(result, indent=1, ensure_ascii=False)),
        (options.figure or (None if options.problem else FIGURE), lambda: drawn(result)),
    ):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            say(f"wrote {write(path, text(), overwrite=True)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
