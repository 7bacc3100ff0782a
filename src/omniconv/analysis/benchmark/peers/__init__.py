# SPDX-License-Identifier: Apache-2.0
"""The libraries that a benchmark is timed beside; a module of this folder each, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from omniconv.analysis.benchmark.operands import Operands
    from omniconv.analysis.benchmark.problems import Benchmark


class Unavailable(Exception):  # noqa: N818  # it says why a cell of the table is empty; nothing failed
    """Why a peer does not compute a benchmark."""


@dataclass(frozen=True)
class Call:
    """What is timed, ``run``, and how to read torch tensors out of what it returns: the output, then the gradients."""

    run: Callable[[], Any]
    read: Callable[[Any], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Peer:
    """One library in one configuration.

    Attributes:
        module: of this folder, with ``prepare(benchmark, operands, threads)``, which returns a ``Call``.
        summary: what it is.
        packages: that it needs; the first one's version is its version.
        gradients, halves, channels_last: whether it is timed with gradients, in bfloat16, and in that layout.
    """

    module: str
    summary: str
    packages: tuple[str, ...] = ("torch",)
    gradients: bool = True
    halves: bool = True
    channels_last: bool = True

    def refuse(self, benchmark: Benchmark, device: str = "cpu") -> str:
        """Why it cannot compute a benchmark at all, or ""."""
        if device != "cpu" and "torch" not in self.packages:
            return "it is timed on the CPU only"
        if benchmark.training and not self.gradients:
            return "it computes no gradients"
        if benchmark.dtype == "bfloat16" and not self.halves:
            return "it is timed in float32 only"
        return "it takes channels first only" if benchmark.layout == "cl" and not self.channels_last else ""


TORCH = ("torch", "torch_cl", "compile")
PEERS = {
    "torch": Peer("eager", "eager, tensors as they lie"),
    "torch_cl": Peer("channels_last", "eager through channels_last, converted there and back"),
    "compile": Peer("compiled", "torch.compile, compiled beforehand"),
    "onnxruntime": Peer(
        "onnxruntime",
        "constant weights",
        ("onnxruntime", "onnx"),
        gradients=False,
        halves=False,
        channels_last=False,
    ),
    "openvino": Peer("openvino", "constant weights", ("openvino", "onnx"), gradients=False, halves=False),
    "jax": Peer("jax", "jitted", ("jax",)),
}


def version(name: str) -> str | None:
    """The version of a peer; None where a package it needs is not installed."""
    try:
        first, *_ = map(metadata.version, PEERS[name].packages)
    except metadata.PackageNotFoundError:
        return None
    return first


def prepared(name: str, benchmark: Benchmark, operands: Operands, threads: int) -> Call:
    """The call of a peer.

    Raises:
        Unavailable: the peer is not installed, or does not compute this benchmark.
    """
    if version(name) is None:
        raise Unavailable("not installed; pip install 'omniconv[bench]'")
    if why := PEERS[name].refuse(benchmark, operands.leaves[0].device.type):
        raise Unavailable(why)
    module = import_module(f"omniconv.analysis.benchmark.peers.{PEERS[name].module}")
    call: Call = module.prepare(benchmark, operands, threads)
    return call
