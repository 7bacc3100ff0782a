# SPDX-License-Identifier: Apache-2.0
"""Time networks of other projects as they are, in torch's faster ways, accelerated, and in inference engines.

python benchmarks/accelerated.py --rt      prints the tables, and writes results/<version>/accelerated-<machine>.json

Pictures of 224 × 224, float32, one and eight at a time, no gradients. *eager* is the network as it comes; *channels
last* the same with weights and pictures converted; *folded* that with its norms folded by torch
(torch.nn.utils.fusion); *compiled* torch.compile as it comes. Every answer is checked against float64 before anything
is timed. Memory is the most that a process of its own held, with the network before or the accelerated network loaded
from its file. Needs torchvision and timm, the extra `examples`, and for the engines `bench`.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import omniconv
from engines import engines
from foreign import INSTALL, NETWORKS, create, missing
from networks import folded
from omniconv import __version__
from omniconv.analysis.benchmark.measure import SAMPLE
from omniconv.analysis.benchmark.peers import version
from omniconv.analysis.benchmark.scheduling import real_time
from omniconv.analysis.machine import measure_machine
from omniconv.analysis.timing import interleaved, ratios
from omniconv.core.library import isa
from results import HERE, keep, spread
from run import commit, say

BATCHES = (1, 8)
SETTLE = 0.05
BASE, OURS = "eager", "accelerated"
Call = Callable[[], Any]
MEMORY = """
import re, sys, torch
sys.path.insert(0, {here!r})
torch.set_num_threads({threads})
if {file!r}:
    import omniconv
    net = omniconv.load({file!r})
else:
    from foreign import create
    net = create({name!r})
x = torch.randn({batch}, 3, 224, 224)
def most():
    return re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
with torch.inference_mode():
    before = most()
    for _ in range(6):
        net(x)
print(before, most())
"""


def ways(network: nn.Module, picture: Tensor, *, compiled: bool) -> Iterator[tuple[str, Call]]:
    """The network in torch's ways, by their names."""
    last = picture.contiguous(memory_format=torch.channels_last)
    yield BASE, partial(network, picture)
    converted = copy.deepcopy(network).to(memory_format=torch.channels_last)
    yield "channels last", partial(converted, last)
    try:
        yield "folded", partial(folded(network).to(memory_format=torch.channels_last), last)
    except Exception as error:  # noqa: BLE001  # a benchmark goes on without a way that this network does not take
        say(f"not folded: {error}")
    if compiled:
        torch._dynamo.reset()  # noqa: SLF001
        yield "compiled", partial(torch.compile(copy.deepcopy(network)), picture)


def checked(calls: dict[str, Call], network: nn.Module, picture: Tensor) -> dict[str, float]:
    """How far each answer is from float64, of its largest number."""
    right: Tensor = copy.deepcopy(network).double()(picture.double())
    found = {}
    for name, call in calls.items():
        found[name] = float((call() - right).abs().max() / right.abs().max())
        if not found[name] < 1e-4:
            raise ValueError(f"{name} is wrong by {found[name]:.1e} of its largest number.")
    return found


def memory(name: str, batch: int, threads: int, file: str = "") -> dict[str, int]:
    """Bytes that a process holds at most, before it runs the network and then."""
    program = MEMORY.format(here=str(HERE), threads=threads, file=file, name=name, batch=batch)
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    before, most = map(int, ran.stdout.split()[-2:])
    return {"loaded": 1024 * before, "most": 1024 * most}


def measured(name: str, batch: int, threads: int, seconds: float, *, compiled: bool) -> dict[str, Any]:
    """One network at one batch."""
    network, picture = create(name), torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    fast = omniconv.accelerate(network, picture, seconds=1.0)
    if fast.report.refused:
        raise ValueError(f"{name} was not accelerated: {fast.report.refused}")
    with torch.inference_mode():
        calls = dict(ways(network, picture, compiled=compiled)) | {OURS: partial(fast, picture)}
        calls |= dict(engines(network, picture, threads))
        differences = checked(calls, network, picture)
        timings = interleaved(calls, seconds=seconds, sample_seconds=SAMPLE, settle_seconds=SETTLE)
    over = ratios(timings, OURS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.pt"
        fast.save(file)
        held = {"before": memory(name, batch, threads), "after": memory(name, batch, threads, str(file))}
    report: Any = fast.report
    return {
        "changes": len(report.changes),
        "removed": len(report.removed),
        "left": dict(report.left),
        "opaque": dict(report.opaque),
        "layout": report.layout,
        "refused": report.refused,
        "difference": differences,
        "ms": {way: spread(timing, 1e3) for way, timing in timings.items()},
        "over": {way: spread(ratio, 1.0) for way, ratio in over.items()},
        "memory": held,
    }


def results(seconds: float, names: tuple[str, ...], *, rt: bool, compiled: bool) -> dict[str, Any]:
    """All networks, as they are written."""
    machine = measure_machine()
    found: dict[str, Any] = {}
    with real_time(wanted=rt) as refused:
        for name in names:
            for batch in BATCHES:
                say(refused or f"{name}, {batch} at a time")
                found[f"{name} × {batch}"] = measured(name, batch, machine.threads, seconds, compiled=compiled)
    versions = {name: at for name in ("onnxruntime", "openvino") if (at := version(name))}
    versions |= {name: metadata.version(name) for name in ("torchvision", "timm")}
    return {
        "version": __version__,
        "commit": commit(),
        "machine": machine.to_dict(),
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, **versions},
        "options": {"seconds": seconds, "rt": rt and not refused, "isa": isa()},
        "networks": found,
    }


def tables(result: dict[str, Any]) -> Iterator[str]:
    """Times, then what was changed, how exact it is, and memory."""
    ways_seen = list(dict.fromkeys(way for one in result["networks"].values() for way in one["ms"]))
    yield f"| ms | {' | '.join(ways_seen)} | of the fastest torch | of the faster engine |"
    yield "|---" * (len(ways_seen) + 3) + "|"
    for name, one in result["networks"].items():
        cells = [f"{one['ms'][way]['median']:.2f}" if way in one["ms"] else "–" for way in ways_seen]
        mine = one["ms"][OURS]["median"]
        engine = [one["ms"][way]["median"] for way in ("onnxruntime", "openvino") if way in one["ms"]]
        torch_ways = [ms["median"] for way, ms in one["ms"].items() if way not in (OURS, "onnxruntime", "openvino")]
        of_engine = f"{mine / min(engine):.2f}" if engine else "–"
        yield f"| {name} | {' | '.join(cells)} | {mine / min(torch_ways):.2f} | {of_engine} |"
    yield ""
    yield "| | layers for more | steps gone | left | max|Δ| of float64, eager | accelerated | MiB before | after |"
    yield "|---" * 8 + "|"
    for name, one in result["networks"].items():
        held = (f"{one['memory'][when]['most'] / 2**20:.0f}" for when in ("before", "after"))
        differences = (f"{one['difference'][way]:.1e}" for way in (BASE, OURS))
        left = len(one["left"]) + len(one["opaque"])
        yield f"| {name} | {one['changes']} | {one['removed']} | {left} | {' | '.join((*differences, *held))} |"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of networks; without any, {', '.join(NETWORKS)}")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the times of each network and batch")
    parser.add_argument("--rt", action="store_true", help="real-time scheduling while timing")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes a minute each")
    parser.add_argument("-o", "--output", type=Path, help="result file")
    options = parser.parse_args(arguments)
    if lack := missing():
        parser.error(INSTALL.format(missing=" ".join(lack)))
    names = tuple(options.names) or NETWORKS
    result = results(options.seconds, names, rt=options.rt, compiled=not options.no_compile)
    print(*tables(result), sep="\n")
    say(f"wrote {keep(result, 'accelerated', options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
