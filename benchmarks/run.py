# SPDX-License-Identifier: Apache-2.0
"""Time every family on this machine: each answer is checked first, then timed beside plain torch in the same rounds.

python benchmarks/run.py                     all of them; writes results/<version>/<machine>.json
python benchmarks/run.py depthwise           those whose family, name or problem string contains "depthwise"
python benchmarks/compare.py OLD NEW         what changed between two result files
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import omniconv
from omniconv.analysis.machine import Machine, measure_machine
from omniconv.analysis.timing import Timing, interleaved, ratios, synchronizer

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))  # the one table of tolerances

from problems import Benchmark, benchmarks  # noqa: E402
from tolerance import assert_close  # noqa: E402

SCHEMA = 1
HEADER = f"{'name':24} {'ms':>9} {'±IQR':>8} {'torch ms':>9} {'× torch':>8} {'bound ms':>9} {'of bound':>9}  problem"


def measure(benchmark: Benchmark, machine: Machine, seconds: float) -> dict[str, Any]:
    """Check, then time one benchmark; a row for the result file."""
    problem = benchmark.problem
    row: dict[str, Any] = {"family": problem.family, "name": benchmark.name, "problem": str(problem)}
    if benchmark.empty:
        return row | {"skipped": "an empty batch has nothing to time"}
    tensors = benchmark.tensors(getattr(torch, machine.dtype), machine.device)
    calls = {"omniconv": benchmark.ours(tensors)}
    if (torchs := benchmark.torchs(tensors)) is not None:
        calls["torch"] = torchs
    expected = benchmark.reference(tensors)
    if complaints := [said for name, call in calls.items() if (said := wrong(name, call(), expected))]:
        return row | {"wrong": "; ".join(complaints)}
    timings = interleaved(calls, seconds=seconds, synchronize=synchronizer(machine.device))
    itemsize = getattr(torch, machine.dtype).itemsize
    bounds = [machine.roofline(s.flops, s.elements * itemsize) for s in benchmark.family.cost(problem).steps]
    bound = sum(b.seconds for b in bounds)
    row |= {
        "ms": spread(timings["omniconv"], 1e3),
        "noisy": timings["omniconv"].noisy,
        "bound_ms": bound * 1e3,
        "binds": [b.binds for b in bounds],
        "of_bound": bound / timings["omniconv"].median,
    }
    if torchs is not None:
        row["torch_ms"] = spread(timings["torch"], 1e3)
        row["over_torch"] = spread(ratios(timings, "torch")["omniconv"])
    return row


def wrong(name: str, actual: torch.Tensor, expected: torch.Tensor) -> str:
    """What is wrong with an answer, or nothing."""
    try:
        assert_close(actual, expected)
    except AssertionError as error:
        return f"{name}: {error}"
    return ""


def spread(timing: Timing, scale: float = 1.0) -> dict[str, float]:
    """The numbers of a timing that the result file keeps."""
    return {
        "median": timing.median * scale,
        "q1": timing.q1 * scale,
        "q3": timing.q3 * scale,
        "samples": len(timing.samples),
    }


def line(row: dict[str, Any]) -> str:
    """One row as text."""
    if "ms" not in row:
        said = f"WRONG {row['wrong']}" if "wrong" in row else f"skipped: {row['skipped']}"
        return f"{row['name']:24} {said}"
    ms, torchs, over = row["ms"], row.get("torch_ms"), row.get("over_torch")
    times = f"{ms['median']:9.3g} {ms['q3'] - ms['q1']:8.2g}"
    beside = f"{torchs['median']:9.3g} {over['median']:8.2f}" if torchs and over else f"{'–':>9} {'–':>8}"
    note = "  noisy" if row["noisy"] else ""
    return f"{row['name']:24} {times} {beside} {row['bound_ms']:9.3g} {row['of_bound']:9.1%}  {row['problem']}{note}"


def commit() -> str:
    """The commit that was measured, with a + where files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def result_path(machine: Machine) -> Path:
    """Where the results of this version on this machine are kept."""
    words = f"{machine.name} {machine.device} {machine.threads}t {machine.dtype}"
    return HERE / "results" / omniconv.__version__ / (re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") + ".json")


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", help="a part of a family, a name or a problem string")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each problem")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("-o", "--output", type=Path, help="result file; none is written by default when only some run")
    options = parser.parse_args(arguments)
    chosen = list(benchmarks(options.only))
    if not chosen:
        parser.error(f"no family, name or problem contains {options.only!r}")
    try:
        machine = measure_machine(options.dtype, options.device, options.threads)
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    torch.set_num_threads(machine.threads)
    print(
        f"{machine.name}, {machine.device}, {machine.threads} threads, {machine.dtype}, torch {machine.torch}; ", end=""
    )
    print(f"peak {machine.peak / 1e9:.0f} GFLOP/s, noise {machine.noise:.0%}\n\n{HEADER}")
    rows = []
    with torch.no_grad():
        for benchmark in chosen:
            rows.append(measure(benchmark, machine, options.seconds))
            print(line(rows[-1]), flush=True)
    output = options.output or (None if options.only else result_path(machine))
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        result = {"schema": SCHEMA, "version": omniconv.__version__, "commit": commit(), "machine": machine.to_dict()}
        output.write_text(json.dumps(result | {"rows": rows}, indent=1, ensure_ascii=False) + "\n")
        print(f"wrote {output}", file=sys.stderr)
    return int(any("wrong" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
