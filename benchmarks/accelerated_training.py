# SPDX-License-Identifier: Apache-2.0
"""Time training steps of networks of other projects, as they are and with `accelerate(…, training=True)`.

python benchmarks/accelerated_training.py --rt    prints tables, and writes results/<version>/training-<machine>.json

Eight pictures of 224 × 224, float32, SGD, nothing dropped. All start from the same parameters, and their losses over
the first twenty steps stand beside each other: they are equal to rounding, which steps make larger. Needs torchvision.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import omniconv
from foreign import INSTALL, create, missing
from omniconv import __version__
from omniconv.analysis.benchmark.scheduling import real_time
from omniconv.analysis.machine import measure_machine
from omniconv.analysis.timing import interleaved, ratios
from omniconv.core.library import isa
from results import keep, spread
from run import commit, say

NETWORKS = ("torchvision:mobilenet_v2", "torchvision:convnext_tiny")
BATCH, STEPS, RATE = 8, 20, 0.01
BASE, OURS = "channels last", "accelerated"
DROPPING = ("Dropout", "StochasticDepth")


def without_chance(network: nn.Module) -> nn.Module:
    """The network, which drops nothing."""
    for module in network.modules():
        if type(module).__name__ in DROPPING:
            module.p = 0.0  # type: ignore[assignment]  # as all of these have it
    return network.train()


def step_of(network: nn.Module, pictures: Tensor) -> Callable[[], Tensor]:
    """One step of training, which returns its loss."""
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    labels = torch.arange(len(pictures))

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(network(pictures), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def ways(name: str) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Steps of one network by the name of the way."""
    network = without_chance(create(name))
    pictures = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    last = pictures.contiguous(memory_format=torch.channels_last)
    fast = omniconv.accelerate(network, pictures, training=True, seconds=0)
    if fast.report.refused:
        raise ValueError(f"{name} was not accelerated: {fast.report.refused}")
    yield "in order", step_of(copy.deepcopy(network), pictures)
    yield BASE, step_of(copy.deepcopy(network).to(memory_format=torch.channels_last), last)
    yield f"{OURS}, in order", step_of(copy.deepcopy(fast), pictures)
    yield OURS, step_of(fast.to(memory_format=torch.channels_last), last)


def measured(name: str, seconds: float) -> dict[str, Any]:
    """One network: losses, then times."""
    steps = dict(ways(name))
    losses = {way: [float(step()) for _ in range(STEPS)] for way, step in steps.items()}
    timings = interleaved(steps, seconds=seconds)
    over = ratios(timings, OURS)
    return {
        "losses": losses,
        "ms": {way: spread(timing, 1e3) for way, timing in timings.items()},
        "over": {way: spread(ratio, 1.0) for way, ratio in over.items()},
    }


def tables(result: dict[str, Any]) -> Iterator[str]:
    """Times, and the losses of the first and the last of twenty steps."""
    names = list(next(iter(result["networks"].values()))["ms"])
    yield f"| ms a step | {' | '.join(names)} | the faster of torch / accelerated |"
    yield "|---" * (len(names) + 2) + "|"
    for name, one in result["networks"].items():
        ms = {way: one["ms"][way]["median"] for way in names}
        fastest = min(ms[way] for way in ("in order", BASE)) / min(ms[way] for way in names if OURS in way)
        yield f"| {name} | {' | '.join(f'{ms[way]:.0f}' for way in names)} | {fastest:.2f} |"
    yield ""
    yield f"| loss of steps 1, 2, 5, 20 | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for name, one in result["networks"].items():
        cells = (", ".join(f"{one['losses'][way][at - 1]:.6f}" for at in (1, 2, 5, 20)) for way in names)
        yield f"| {name} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for the times of each network")
    parser.add_argument("--rt", action="store_true", help="real-time scheduling while timing")
    parser.add_argument("-o", "--output", type=Path, help="result file")
    options = parser.parse_args(arguments)
    if lack := missing():
        parser.error(INSTALL.format(missing=" ".join(lack)))
    machine = measure_machine()
    with real_time(wanted=options.rt) as refused:
        found = {}
        for name in NETWORKS:
            say(refused or name)
            found[name] = measured(name, options.seconds)
    result = {
        "version": __version__,
        "commit": commit(),
        "machine": machine.to_dict(),
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
        "options": {"seconds": options.seconds, "rt": options.rt and not refused, "isa": isa()},
        "networks": found,
    }
    print(*tables(result), sep="\n")
    say(f"wrote {keep(result, 'training', options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
