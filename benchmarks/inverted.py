# SPDX-License-Identifier: Apache-2.0
"""Inverted residuals of EfficientNet and MobileNetV2: one call beside their parts, each a call with its activation.

python benchmarks/inverted.py --rt
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

import omniconv
from omniconv.analysis.benchmark.measure import SAMPLE, SETTLE
from omniconv.analysis.benchmark.scheduling import real_time
from omniconv.analysis.timing import interleaved, ratios
from omniconv.core.library import absent

# Channels in and out, positions along each axis, stride, taps along each axis.
BLOCKS = (
    (16, 24, 112, 2, 3),
    (24, 24, 56, 1, 3),
    (24, 40, 56, 2, 5),
    (40, 40, 28, 1, 5),
    (40, 80, 28, 2, 3),
    (80, 80, 14, 1, 3),
    (112, 112, 14, 1, 5),
    (192, 192, 7, 1, 5),
)
LAYOUTS = {"cf": torch.contiguous_format, "cl": torch.channels_last}


def calls_of(block: tuple[int, ...], layout: torch.memory_format) -> dict[str, Callable[[], Tensor]]:
    """The block in one call and in two, of one picture, six times as wide inside."""
    inside, outside, size, stride, taps = block
    layer = omniconv.nn.InvertedResidual2d(inside, outside, taps, stride, taps // 2, activation=nn.ReLU6).eval()
    x = torch.randn(1, inside, size, size).contiguous(memory_format=layout)
    added = (x,) if layer.residual else ()
    return {"one": lambda: layer(x), "parts": lambda: layer.separable(layer.expansion(x), *added)}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 if the two differ by more than rounding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each block")
    parser.add_argument("--rt", action="store_true", help="real-time scheduling while timing")
    options = parser.parse_args(arguments)
    if why := absent():
        parser.error(f"{why}; the parts are all that there is.")
    print("| block | one call, ms | parts, ms | one of parts |\n|---|---|---|---|")
    for layout, form in LAYOUTS.items():
        for block in BLOCKS:
            with torch.inference_mode(), real_time(wanted=options.rt):
                calls = calls_of(block, form)
                one, parts = calls["one"](), calls["parts"]()
                if not torch.allclose(one, parts, rtol=1e-4, atol=1e-4):
                    print(f"{block}/{layout} is wrong", file=sys.stderr)
                    return 1
                found = interleaved(calls, seconds=options.seconds, sample_seconds=SAMPLE, settle_seconds=SETTLE)
            over = ratios(found, "parts")["one"].median
            inside, outside, size, stride, taps = block
            name = f"{inside} → {6 * inside} → {outside}, {taps}×{taps}, stride {stride}, {size}×{size}/{layout}"
            print(f"| {name} | {1e3 * found['one'].median:.3f} | {1e3 * found['parts'].median:.3f} | {over:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
