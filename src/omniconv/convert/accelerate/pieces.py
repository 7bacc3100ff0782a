# SPDX-License-Identifier: Apache-2.0
"""Parts of a model that are made faster each by itself: the whole, or what stands in submodules that no graph shows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from omniconv.core.layer import ConvLayer

from .chains import Chains, Change
from .cleaning import clean
from .proof import Distance, Steps, distance, proved, widened
from .tracing import Traced, is_step, trace

MAPS = (nn.modules.conv._ConvNd, nn.Linear, ConvLayer)  # noqa: SLF001
LISTS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


@dataclass
class Piece:
    """A submodule as a graph.

    Attributes:
        path: its qualified name, "" for the model itself.
        graph: its steps as they were.
        faster: its steps now.
        changes: the layers that stand for several steps.
        distances: of each change that was proved.
        removed: steps that need not be computed again.
        left: by name, why a convolution or linear map is as it was.
        looks_elsewhere: whether a step calls a module that is not looked into.
        doubted: by the name of their last step, why chains must stay as they were.
    """

    path: str
    graph: fx.GraphModule
    faster: fx.GraphModule
    changes: list[Change] = field(default_factory=list)
    distances: dict[int, Distance] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    looks_elsewhere: bool = False
    doubted: dict[str, str] = field(default_factory=dict)

    def again(self, doubted: dict[str, str]) -> None:
        """Take back every change; some must not be made again."""
        self.doubted |= doubted
        self.faster, self.changes, self.distances = _copied(self.graph), [], {}

    def full(self, name: str) -> str:
        """A name in this piece as one in the model."""
        return f"{self.path}.{name}" if self.path else name


@dataclass
class Example:
    """What the example has shown of submodules, by their paths.

    Attributes:
        absent: the inputs that are None.
        misread: why the steps of a trace are not what the module does.
    """

    absent: dict[str, set[str]] = field(default_factory=dict)
    misread: dict[str, str] = field(default_factory=dict)

    def teaches(self, piece: Piece, inputs: Sequence[Any], output: Any) -> bool:
        """Run the steps of a piece, noting shapes and types; whether it must be traced again."""
        absent = self.absent.setdefault(piece.path, set())
        if new := _left_out(piece.graph, inputs) - absent:
            absent |= new
            return True
        try:
            with torch.no_grad():  # a copy, because a module that is not looked into may change itself
                steps = _Seen(copy.deepcopy(piece.graph), graph=piece.graph.graph)
                found = steps.run(*pytree.tree_map(_own, inputs))
        except Exception as error:  # noqa: BLE001  # steps may fail in any way on what a stand-in was not
            said = str(error).partition("\n")[0]
            self.misread[piece.path] = f"a trace shows steps that fail: {type(error).__name__}: {said}"
            return True
        try:
            same = distance(widened(output), output, found).holds
        except ValueError:  # another shape or type
            same = False
        if not same:
            self.misread[piece.path] = "its forward gives something else than the steps that a trace shows"
        return not same


def _left_out(graph: fx.GraphModule, inputs: Sequence[Any]) -> set[str]:
    """The inputs that may be None, and are."""
    named = zip(graph.graph.find_nodes(op="placeholder"), inputs, strict=True)
    return {str(node.target) for node, value in named if value is None and node.args == (None,)}


def pieces_of(model: nn.Module, example: Example) -> tuple[list[Piece], dict[str, str]]:
    """The pieces of a model, and by qualified name why some of it is in none."""
    found: list[Piece] = []
    opaque: dict[str, str] = {}
    _look(model, "", found, opaque, set(), example)
    return found, opaque


def _look(
    module: nn.Module, path: str, found: list[Piece], opaque: dict[str, str], seen: set[int], example: Example
) -> None:
    if id(module) in seen or not any(isinstance(inner, MAPS) for inner in module.modules()):
        return
    seen.add(id(module))
    inside: Iterator[tuple[str, nn.Module]] = module.named_children()
    if not isinstance(module, LISTS):
        misread = example.misread.get(path)
        traced = Traced(None, {"": misread}) if misread else trace(module, example.absent.get(path, ()))
        prefix = f"{path}." if path else ""
        opaque.update({f"{prefix}{name}".removesuffix("."): why for name, why in traced.opaque.items()})
        if traced.graph is not None:
            found.append(Piece(path, traced.graph, _copied(traced.graph)))
            for name in traced.opaque:
                for child, part in module.get_submodule(name).named_children():
                    _look(part, f"{prefix}{name}.{child}", found, opaque, seen, example)
            return
    for name, part in inside:
        _look(part, f"{path}.{name}" if path else name, found, opaque, seen, example)


def _copied(graph: fx.GraphModule) -> fx.GraphModule:
    """Another graph of the same modules."""
    steps = fx.Graph()
    steps.output(steps.graph_copy(graph.graph, {}))
    return fx.GraphModule(graph, steps)


class _Seen(Steps):
    """Notes shapes and types of what each step gives."""

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if isinstance(found, Tensor):
            n.meta.update(shape=tuple(found.shape), dtype=found.dtype, in_order=found.is_contiguous())
        return found


def rewrite(piece: Piece) -> None:
    """Clean a graph, of which shapes and types were noted, and put layers for its chains."""
    piece.faster = _copied(piece.graph)
    piece.removed = clean(piece.faster)
    chains = Chains(piece.faster, piece.doubted)
    chains.rewrite()
    piece.changes, piece.left = chains.changes, chains.left
    called = (str(node.target) for node in piece.faster.graph.nodes if node.op == "call_module")
    piece.looks_elsewhere = not all(is_step(piece.faster.get_submodule(name)) for name in called)


def prove(piece: Piece, inputs: list[Any]) -> None:
    """Measure how far each change is from float64."""
    piece.distances = proved(piece.graph, piece.changes, pytree.tree_map(_own, inputs))


def _own(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def placed(graph: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any] | None:
    """Arguments of a call in the order of the graph's inputs, defaults included; None where one is missing."""
    left, given = list(args), dict(kwargs)
    found: list[Any] = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            if str(node.target).startswith("**"):
                found.append({key: given.pop(key) for key in list(given)})
            elif str(node.target).startswith("*"):
                found.append(tuple(left))
                left = []
            elif left:
                found.append(left.pop(0))
            elif node.target in given:
                found.append(given.pop(str(node.target)))
            elif node.args:
                found.append(node.args[0])
            else:
                return None
    return found
