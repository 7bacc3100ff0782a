# SPDX-License-Identifier: Apache-2.0
"""From a surveyed graph to a network with denser maps: its end, what must be refused, and the numbers of each step."""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any

from torch import fx

from .calls import Call
from .head import Head
from .respace import respace
from .survey import NOWHERE, Fixed, Gathered, Map, Source, Survey
from .windows import Ints, Window


class Denser:
    """A surveyed graph, and the output stride of each axis that is wanted of it."""

    def __init__(self, survey: Survey, graph: fx.Graph, wanted: Ints, name: str) -> None:
        self.survey, self.graph, self.wanted, self.name = survey, graph, wanted, name
        self.sampled: dict[fx.Node, Source] = {}

    def run(self, head: str, means: str) -> fx.GraphModule:
        self._finish(head)
        alive = set(self.graph.nodes)
        self._check(alive, means)
        self._respace(alive)
        for node, source in self.sampled.items():
            self._sample(node, source)
        self.graph.lint()
        root = self.survey.root
        dense = fx.GraphModule(root, self.graph, self.name)
        constants = dict(dense.named_buffers(recurse=False))
        held = ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set", "training")
        vars(dense).update({key: vars(root)[key] for key in held})  # what the graph leaves out has its names too
        for name in constants.keys() - dict(root.named_buffers(recurse=False)).keys():
            dense.register_buffer(name, constants[name], persistent=False)
        return dense

    def refusal(self, call: Call, why: str, use: str = "a larger output_stride") -> ValueError:
        return ValueError(f"`model` (={self.name}) cannot be dilated at {call}, which {why}; use {use}.")

    def kept(self, stride: Fraction, wanted: int) -> Fraction:
        """Of a stride, what stays."""
        return Fraction(math.gcd(stride.numerator, wanted), stride.denominator)

    def removed(self, map: Map) -> Ints:
        """Of each axis, the stride that is taken out before this map."""
        return tuple(int(s / self.kept(s, w)) for s, w in zip(map.stride, self.wanted, strict=False))

    def denser(self, map: Map) -> bool:
        return any(r != 1 for r in self.removed(map))

    def _finish(self, head: str) -> None:
        """Do with the end of the network what ``head`` says."""
        *_, output = self.graph.nodes
        unused = {node for node in self.graph.nodes if not node.users}
        made = Head(self.survey, lambda call, why: self.refusal(call, why, "head='drop'"))
        leaves = {n: state for n in output.all_input_nodes if isinstance(state := self.survey.states[n], Gathered)}
        ends = {leaf: self._end(made, head, leaf, state) for leaf, state in leaves.items()}
        output.args = fx.map_arg(output.args, lambda n: ends.get(n, n))
        for node in reversed(list(self.graph.nodes)):
            if not node.users and node not in unused and node.op != "placeholder":
                self.graph.erase_node(node)

    def _end(self, made: Head, head: str, leaf: fx.Node, state: Gathered) -> fx.Node:
        hows = {source.how for source in state.sources}
        first = min(state.sources, key=lambda source: list(self.graph.nodes).index(source.node))
        changed = any(self.denser(source.map) for source in state.sources)
        call = Call.of(self.survey.root, first.node)
        if head == "drop":
            before = {made.map_before(source.node) for source in state.sources}
            if len(before) > 1:
                raise self.refusal(call, "is one of several that read positions together", "head='keep'")
            return before.pop()
        if head == "map" and hows == {"mean"}:
            return made.at_every_position(leaf)[0]
        fine = not changed and (head == "keep" or hows == {"other"})
        if fine or (head == "keep" and hows <= {"mean", "pooled"}):
            return leaf
        raise self.refusal(call, first.why, "head='drop', which ends before it")

    def _check(self, alive: set[fx.Node], means: str) -> None:
        for call, map, why in self.survey.demands:
            if call.node in alive and map is NOWHERE:
                raise self.refusal(call, why, "one of torch.nn's layers there")
            if call.node in alive and self.denser(map):
                raise self.refusal(call, why)
        for call, map, state in self.survey.joins:
            if call.node not in alive:
                continue
            if isinstance(state, Map) and self.removed(state) != self.removed(map):
                raise self.refusal(
                    call, f"joins maps that lost strides of {self.removed(state)} and {self.removed(map)}"
                )
            if isinstance(state, Fixed) and self.denser(map) and _has_positions(state.value, map):
                raise self.refusal(call, "joins the map and a parameter that may have positions of its own")
            if isinstance(state, Gathered):
                self._check_gathered(call, map, state, means)

    def _check_gathered(self, call: Call, map: Map, state: Gathered, means: str) -> None:
        for source in state.sources:
            at = Call.of(self.survey.root, source.node)
            if source.how in ("flat", "other") and (self.denser(source.map) or self.denser(map)):
                raise self.refusal(at, f"{source.why}, and returns to the map at {call}")
            if source.how in ("mean", "pooled") and self.denser(source.map):
                if means == "refuse":
                    why = f"{source.why}, of which a denser map has more, and returns to the map at {call}"
                    raise self.refusal(at, why, "means='sampled' or a larger output_stride")
                self.sampled[source.node] = source

    def _respace(self, alive: set[fx.Node]) -> None:
        numbers: dict[int, Any] = {}
        changes: list[tuple[Call, Window, Ints, Ints]] = []
        for node in (n for n in self.graph.nodes if n in self.survey.windows):
            call, window = Call.of(self.survey.root, node), self.survey.windows[node]
            map = next(s for s in self.survey.inputs(node) if isinstance(s, Map))
            removed, step = self.removed(map), self._step(map, window)
            if why := window.refusal(removed):
                raise self.refusal(call, why)
            new = window.spread(removed, step), window.fixed or removed
            if numbers.setdefault(id(call.module or node), new) != new:
                raise self.refusal(call, "is used in several places that lost different strides")
            if self.denser(map) or step != window.stride:
                changes.append((call, window, removed, step))
        changed = {id(call.module) for call, *_ in changes if call.module is not None}
        for call in (Call.of(self.survey.root, n) for n in alive if n.op == "call_module"):
            if id(call.module) in changed and call.node not in self.survey.windows:
                raise self.refusal(call, "is used in several places, where it slides over a map and where it does not")
        for change in changes:
            self._change(*change)

    def _step(self, map: Map, window: Window) -> Ints:
        """The stride that stays of a window's."""
        numbers = zip(map.stride, window.stride, self.wanted, strict=True)
        return tuple(int(self.kept(s * t, w) / self.kept(s, w)) for s, t, w in numbers)

    def _change(self, call: Call, window: Window, removed: Ints, step: Ints) -> None:
        try:
            respace(self.survey.root, call.node, window, removed, step)
        except (TypeError, ValueError) as error:
            raise self.refusal(call, str(error), "a plain layer there") from error

    def _sample(self, node: fx.Node, source: Source) -> None:
        """Let a step see only the positions that it saw before."""
        index: list[Any] = [slice(None)] * source.map.rank
        for d, r in zip(source.map.dims, self.removed(source.map), strict=True):
            index[d] = slice(None, None, r)
        before = next(n for n in node.all_input_nodes)
        with self.graph.inserting_before(node):
            fewer = self.graph.call_function(operator.getitem, (before, tuple(index)))
        node.replace_input_with(before, fewer)


def _has_positions(value: Any, map: Map) -> bool:
    if isinstance(value, int | float):
        return False
    shape = getattr(value, "shape", None)
    if shape is None:
        return True
    return any(d - map.rank + len(shape) >= 0 and shape[d - map.rank] > 1 for d in map.dims)
