# SPDX-License-Identifier: Apache-2.0
"""Time a trained network, EfficientNet-Lite0, with torch's convolutions, with ours, and in inference engines.

python benchmarks/networks.py --rt         prints both tables, and writes results/<version>/networks-<machine>.json

One picture of 224 × 224, float32, no gradients. *Folded*: batch norms are folded into the convolutions before them
(torch.nn.utils.fusion), and torch's convolutions pad by themselves where both sides are padded alike; the network as
published pads in a step of its own. *Accelerated*: what `omniconv.accelerate` makes of it as published. Every answer is
checked in float64 first.
The second table takes the network apart: each step is timed where it stands, in passes through the whole network, so
that it finds in the caches what the step before it left there. Needs the extra `examples`, and for the engines `bench`.
"""

from __future__ import annotations

import argparse
import copy
import operator
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

import omniconv
from engines import engines
from omniconv import __version__
from omniconv.analysis.benchmark.measure import SAMPLE
from omniconv.analysis.benchmark.peers import version
from omniconv.analysis.benchmark.scheduling import real_time
from omniconv.analysis.machine import measure_machine
from omniconv.analysis.timing import interleaved, ratios
from omniconv.convert.accelerate.accelerated import Accelerated
from omniconv.convert.swap import swap
from omniconv.core.chain import Adding, FollowedConv
from omniconv.core.layer import PlannedLayer
from omniconv.core.library import isa
from results import HERE, keep, spread
from run import commit, say

sys.path.insert(0, str(HERE.parent / "examples"))
from efficientnet_lite0 import INSTALL, PACKAGES, network, photographs, with_own_padding

LAYOUTS = {"cf": torch.contiguous_format, "cl": torch.channels_last}
BASE = "torch/cf"
KINDS = ("standard", "pointwise", "depthwise", "fused", "norm", "activation", "add", "other")
PASSES = 60
# Seconds of untimed calls before each sample. After 0.025 a fused network in channels last took 8.6 ms where
# onnxruntime had run before, and 7.4 where another of ours had; after 0.1 it took 7.2 in both.
SETTLE = 0.1
Call = Callable[[], object]
ADDS = (operator.add, operator.iadd, torch.add)
CONVOLUTIONS = (nn.Conv2d, PlannedLayer)
# What `accelerate` puts for a convolution with what stands around it.
FUSED = (
    omniconv.nn.PointwiseConv2d,
    omniconv.nn.DepthwiseSeparableConv2d,
    omniconv.nn.InvertedResidual2d,
    FollowedConv,
    Adding,
)
ORDERS = {"cf": "in order", "cl": "channels last"}
NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)  # noqa: SLF001  # torch has no other base


class _Steps(fx.Tracer):
    """Sees a convolution and a classifier as one step, also where a subclass pads by itself."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (*CONVOLUTIONS, *FUSED, nn.Linear)) or super().is_leaf_module(module, name)


def steps_of(model: nn.Module) -> fx.GraphModule:
    """The model as a sequence of calls of its layers, and of functions."""
    if isinstance(model, Accelerated):
        return model.network.graph  # type: ignore[return-value]
    return fx.GraphModule(model, _Steps().trace(model))


def folded(model: nn.Module) -> fx.GraphModule:
    """A copy whose batch norms are part of the convolutions before them."""
    graph = steps_of(copy.deepcopy(model))
    for node in list(graph.graph.nodes):
        before = node.args[0] if node.op == "call_module" else None
        norm = graph.get_submodule(node.target) if before is not None else None
        if not isinstance(norm, nn.BatchNorm2d) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer = graph.get_submodule(before.target)
        if isinstance(layer, nn.Conv2d):
            graph.set_submodule(before.target, fuse_conv_bn_eval(layer, norm))
            node.replace_all_uses_with(before)
            graph.graph.erase_node(node)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def padded(layer: nn.Module) -> nn.Module:
    """A convolution that pads in a step of its own as one of torch's that does not, where both sides are alike."""
    left, right, top, bottom = getattr(layer.static_padding, "padding", (0, 0, 0, 0))
    if left != right or top != bottom:
        return layer
    names = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups")
    numbers: dict[str, Any] = {name: getattr(layer, name) for name in names}
    new = nn.Conv2d(**numbers, padding=(top, left), bias=layer.bias is not None, device="meta")
    new.weight, new.bias = layer.weight, layer.bias  # type: ignore[assignment]  # only the layer knows that it has them
    return new


def models() -> dict[str, nn.Module]:
    """The network in every way but the engines', by the name of the way."""
    net = network()
    own, rules = type(net._conv_stem), {"torch": padded, "omniconv": with_own_padding}  # noqa: SLF001
    ways = {"torch": net, "torch folded": swap(folded(net), {own: rules["torch"]}).model}
    ways["omniconv"] = swap(copy.deepcopy(net), {own: rules["omniconv"]}).model
    ways["omniconv folded"] = swap(folded(net), {own: rules["omniconv"]}).model
    found: dict[str, nn.Module] = {
        f"{way}/{layout}": copy.deepcopy(model).eval().to(memory_format=form)
        for way, model in ways.items()
        for layout, form in LAYOUTS.items()
    }
    for layout, order in ORDERS.items():
        found[f"accelerated/{layout}"] = omniconv.accelerate(net, torch.zeros(1, 3, 224, 224), layout=order, seconds=0)
    return found


def checked(calls: dict[str, Call], picture: Tensor) -> None:
    """Raise unless every call gives the logits of the network in float64, to rounding."""
    right: Tensor = network().double()(picture.double())
    allowed = 256 * torch.finfo(torch.float32).eps * float(right.abs().max())
    for name, call in calls.items():
        found: Any = call()
        if not (difference := float((found - right).abs().max())) <= allowed:
            raise ValueError(f"{name} is wrong: its logits differ by {difference:.2g}, more than {allowed:.2g}.")


def is_depthwise(module: Any) -> bool:
    """Whether a layer convolves each channel by itself."""
    return isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels > 1


def is_pointwise(module: Any) -> bool:
    """Whether a layer maps the channels of each position."""
    return isinstance(module, CONVOLUTIONS) and set(module.kernel_size) == {1} and module.groups == 1


def is_activation(module: object) -> bool:
    """Whether a layer is one of torch's activations."""
    return type(module).__module__ == "torch.nn.modules.activation"


def kind_of(module: nn.Module | None, function: object) -> str:
    """What a step does, in a word of ``KINDS``."""
    if isinstance(module, FUSED):
        return "fused"
    if isinstance(module, CONVOLUTIONS):
        return "depthwise" if is_depthwise(module) else "pointwise" if is_pointwise(module) else "standard"
    if isinstance(module, NORMS):
        return "norm"
    return "activation" if is_activation(module) else "add" if function in ADDS else "other"


class _Timed(fx.Interpreter):
    """Runs a model step by step, and adds up the seconds of each kind of step."""

    def __init__(self, model: fx.GraphModule) -> None:
        super().__init__(model)
        self.seconds: dict[str, float] = {}

    def run_node(self, node: fx.Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        module = self.submodules.get(str(node.target)) if node.op == "call_module" else None
        run: Callable[..., Any] = module or getattr(self, node.op)
        given = args if module else (node.target, args, kwargs)
        begin = time.perf_counter()
        result = run(*given)
        passed = time.perf_counter() - begin
        if node.op not in ("placeholder", "output"):
            kind = kind_of(module, node.target)
            self.seconds[kind] = self.seconds.get(kind, 0.0) + passed
        return result


def shares(model: nn.Module, picture: Tensor) -> dict[str, float]:
    """Milliseconds of each kind of step in one pass, the median of many."""
    graph = steps_of(model)
    found = []
    for _ in range(PASSES):
        timed = _Timed(graph)
        timed.run(picture)
        found.append(timed.seconds)
    return {kind: 1e3 * statistics.median(one.get(kind, 0.0) for one in found) for kind in KINDS}


def measured(seconds: float, *, rt: bool) -> dict[str, Any]:
    """The result, as it is written."""
    machine = measure_machine()
    picture = photographs()[0][:1]
    pictures = {layout: picture.contiguous(memory_format=form) for layout, form in LAYOUTS.items()}
    nets = models()
    calls: dict[str, Call] = {name: partial(net, pictures[name.split("/")[1]]) for name, net in nets.items()}
    calls |= dict(engines(network(), picture, machine.threads))
    with torch.inference_mode(), real_time(wanted=rt) as refused:
        checked(calls, picture)
        say(refused or f"timing {len(calls)} ways")
        timings = interleaved(calls, seconds=seconds, sample_seconds=SAMPLE, settle_seconds=SETTLE)
        apart = {name: shares(net, pictures[name.split("/")[1]]) for name, net in nets.items()}
    over = ratios(timings, BASE)
    engine = {name: found for name in ("onnxruntime", "openvino") if (found := version(name))}
    return {
        "network": "EfficientNet-Lite0",
        "version": __version__,
        "commit": commit(),
        "machine": machine.to_dict(),
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, **engine},
        "options": {"seconds": seconds, "rt": rt and not refused, "isa": isa()},
        "ms": {name: spread(timing, 1e3) for name, timing in timings.items()},
        "over": {name: spread(ratio, 1.0) for name, ratio in over.items()},
        "kinds": apart,
    }


def tables(result: dict[str, Any]) -> Iterator[str]:
    """The times, and the times of each kind of step."""
    yield f"| {result['network']} | ms | quartiles | of {BASE} |"
    yield "|---|---|---|---|"
    for name, ms in result["ms"].items():
        ratio = result["over"][name]["median"]
        yield f"| {name} | {ms['median']:.2f} | {ms['q1']:.2f} to {ms['q3']:.2f} | {ratio:.2f} |"
    yield ""
    yield f"| ms by kind of step | {' | '.join(KINDS)} | sum |"
    yield "|---" * (2 + len(KINDS)) + "|"
    for name, found in result["kinds"].items():
        cells = (f"{found[kind]:.2f}" for kind in KINDS)
        yield f"| {name} | {' | '.join(cells)} | {sum(found.values()):.2f} |"


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="for the times of the first table")
    parser.add_argument("--rt", action="store_true", help="real-time scheduling while timing")
    parser.add_argument("-o", "--output", type=Path, help="result file")
    options = parser.parse_args(arguments)
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        parser.error(INSTALL.format(missing=", ".join(missing)))
    result = measured(options.seconds, rt=options.rt)
    print(*tables(result), sep="\n")
    say(f"wrote {keep(result, 'networks', options.output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
