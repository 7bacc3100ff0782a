# SPDX-License-Identifier: Apache-2.0
"""Convolutions in channels last with packed weights: our product of matrices beside oneDNN, each with its ReLU.

Those of ResNet-50, ResNeXt-50, MobileNetV2 and ConvNeXt-T, and a dilated one, which `accelerate` leaves to oneDNN.

python benchmarks/implicit.py --rt
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor, nn

import omniconv
from omniconv.analysis.benchmark.measure import SAMPLE, SETTLE
from omniconv.analysis.benchmark.scheduling import real_time
from omniconv.analysis.timing import interleaved, ratios
from omniconv.core.family import family_of
from omniconv.core.follow import activation_code
from omniconv.core.library import absent

# Channels in and out, positions along each axis, taps along each axis, stride, padding, dilation, groups.
CONVOLUTIONS = (
    (3, 64, 224, 7, 2, 3, 1, 1),
    (3, 32, 224, 3, 2, 1, 1, 1),
    (3, 96, 224, 4, 4, 0, 1, 1),
    (512, 512, 28, 3, 2, 1, 1, 32),
    (512, 512, 14, 3, 1, 1, 1, 32),
    (1024, 1024, 14, 3, 2, 1, 1, 32),
    (1024, 1024, 7, 3, 1, 1, 1, 32),
    (64, 64, 56, 3, 1, 1, 1, 1),
    (128, 128, 28, 3, 1, 1, 1, 1),
    (256, 256, 14, 3, 1, 1, 1, 1),
    (512, 512, 7, 3, 1, 1, 1, 1),
    (512, 256, 33, 3, 1, 12, 12, 1),
)
BATCHES = 1, 8


def calls_of(numbers: tuple[int, ...], batch: int) -> dict[str, Callable[[], Tensor]]:
    """One convolution, by each."""
    inside, outside, size, taps, stride, padding, dilation, groups = numbers
    layer = omniconv.nn.Conv2d(inside, outside, taps, stride, padding, dilation, groups).eval().requires_grad_(False)
    relu = nn.ReLU()
    module, code = family_of(layer.problem).part("prepacked").PrepackedConv(layer, relu), activation_code(relu)
    x = torch.randn(batch, inside, size, size).contiguous(memory_format=torch.channels_last)
    ways = {"ours": module._multiplied, "oneDNN": module._convolved}  # noqa: SLF001  # the choice between them is measured
    return {name: lambda way=way: way(x, None, code) for name, way in ways.items()}  # type: ignore[misc]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the two differ by more than rounding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each convolution and batch")
    parser.add_argument("--rt", action="store_true", help="real-time scheduling while timing")
    options = parser.parse_args(arguments)
    if why := absent():
        parser.error(f"{why}; oneDNN is all that there is.")
    print("| convolution | ours, ms | oneDNN, ms | ours of oneDNN |\n|---|---|---|---|")
    for numbers, batch in product(CONVOLUTIONS, BATCHES):
        with torch.no_grad(), real_time(wanted=options.rt):
            calls = calls_of(numbers, batch)
            ours, theirs = calls["ours"](), calls["oneDNN"]()
            inside, outside, size, taps, stride, _, dilation, groups = numbers
            name = f"{inside} → {outside}, {taps}×{taps}, stride {stride}, dilation {dilation}, groups {groups}"
            name = f"{name}, {batch} × {size}×{size}"
            if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
                print(f"{name} is wrong", file=sys.stderr)
                return 1
            found = interleaved(calls, seconds=options.seconds, sample_seconds=SAMPLE, settle_seconds=SETTLE)
        over = ratios(found, "oneDNN")["ours"].median
        print(
            f"| {name} | {1e3 * found['ours'].median:.3f} | {1e3 * found['oneDNN'].median:.3f} | {over:.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
