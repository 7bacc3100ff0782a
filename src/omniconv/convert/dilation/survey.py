# SPDX-License-Identifier: Apache-2.0
"""Where the positions of a traced network stand: for each step, which dims of its tensor they are, and how far apart.

A tensor is a map, whose positions are so many of the input's apart; or gathered, where a step has read positions
together; or it has to do with no positions at all. Rules are found by the name of a step; pointwise functions need
none. A step that nobody knows is taken to gather.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn

from .calls import Call
from .windows import Window

AXES = (1009, 1013, 1019)  # of an example: primes that are found again wherever the axes went
ANY = 10080  # channels that nobody told: what many numbers divide
UNKNOWN = "is not known to act position by position"
ARITHMETIC = ("_operator", "builtins", "math")
SIZED = {"expand", "interpolate", "repeat", "reshape", "view"}  # of what has no positions, sizes matter not


@dataclass(frozen=True)
class Map:
    """Positions in ``dims`` of a tensor, each ``stride`` positions of the input apart.

    ``sizes`` are those of an example: ``AXES`` positions, and as many channels as there are, or ``ANY``.
    """

    stride: tuple[Fraction, ...]
    dims: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def rank(self) -> int:
        """How many dims the tensor has."""
        return len(self.sizes)

    @property
    def example(self) -> Tensor:
        """A tensor without data."""
        return torch.empty(self.sizes, device="meta")

    @property
    def last(self) -> bool:
        """Whether the positions are the last dims, in their order, as convolutions want them."""
        return self.dims == tuple(range(self.rank - len(self.dims), self.rank))

    def like(self, tensor: Tensor) -> Map | None:
        """The map that became of the example, or None where positions are gone."""
        sizes, axes = tuple(tensor.shape), AXES[: len(self.dims)]
        if any(sizes.count(size) != 1 for size in axes):
            return None
        return Map(self.stride, tuple(sizes.index(size) for size in axes), sizes)

    def with_channels(self, count: int, at: int) -> Map:
        """The map with other channels, in dim ``at``."""
        sizes = list(self.sizes)
        sizes[at] = count
        return replace(self, sizes=tuple(sizes))


@dataclass(frozen=True)
class Source:
    """A step that reads all positions of ``map`` together, and how.

    ``how`` is ``mean``, ``pooled`` (to a fixed number of positions), ``flat`` (side by side) or ``other``.
    """

    node: fx.Node
    map: Map
    how: str
    why: str


@dataclass(frozen=True)
class Gathered:
    """A tensor that some steps made of all positions."""

    sources: frozenset[Source]


@dataclass(frozen=True)
class Size:
    """What a shape says, of a map of ``AXES`` positions; ``source`` where a number of positions is in it."""

    value: Any = None
    source: Source | None = None


@dataclass(frozen=True)
class Fixed:
    """A parameter or a number, or what was made of these; ``value`` has its shape, or is None where nobody knows it."""

    value: Any = None


@dataclass(frozen=True)
class Many:
    """A tuple of maps."""

    maps: tuple[Map, ...]


State = Map | Gathered | Size | Fixed | Many


@dataclass
class Survey:
    """The state of every step, and what holds only where no stride was removed, or the same on all sides.

    Attributes:
        states: by node.
        windows: the steps that slide a window.
        demands: steps that compute something else on a denser map, the map, and why.
        joins: steps that put tensors together position by position, the result, and the state of another.
    """

    root: nn.Module
    dim: int
    states: dict[fx.Node, State] = field(default_factory=dict)
    windows: dict[fx.Node, Window] = field(default_factory=dict)
    demands: list[tuple[Call, Map, str]] = field(default_factory=list)
    joins: list[tuple[Call, Map, Map | Gathered | Fixed]] = field(default_factory=list)

    def follow(self, graph: fx.Graph) -> Survey:
        """Look at every step in order."""
        for node in graph.nodes:
            if node.op != "output":
                self.states[node] = self._state(node)
        return self

    def _state(self, node: fx.Node) -> State:
        if node.op == "placeholder":
            start = Map((Fraction(1),) * self.dim, tuple(range(2, 2 + self.dim)), (4, ANY, *AXES[: self.dim]))
            return Fixed() if any(isinstance(state, Map) for state in self.states.values()) else start
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(self.root)
            return Fixed(value.to("meta") if isinstance(value, Tensor) else value)
        call, inputs = Call.of(self.root, node), self.inputs(node)
        found = next((state for state in inputs if isinstance(state, Map | Many)), None)
        if found is None:
            return self._without_map(call, inputs)
        if isinstance(found, Many):
            at = call.get(1, "index")
            picked = call.name == "getitem" and isinstance(at, int) and -len(found.maps) <= at < len(found.maps)
            return found.maps[at] if picked else self.gathered(call, found.maps[0])
        rule = RULES.get(call.name)
        if rule is None:
            return self.joined(call, inputs) if call.pointwise else self.gathered(call, found)
        first = inputs[0] is found or call.name in FROM_LISTS
        return rule(self, call, found) if first else self.gathered(call, found)

    def inputs(self, node: fx.Node) -> list[State]:
        """The states of all tensors and sizes that a step is given."""
        return [self.states[other] for other in node.all_input_nodes]

    def gathered(self, call: Call, map: Map, how: str = "other", why: str = UNKNOWN) -> Gathered:
        """All positions read together by ``call``, and by the steps that its other inputs come from."""
        earlier = (state.sources for state in self.inputs(call.node) if isinstance(state, Gathered))
        return Gathered(frozenset([Source(call.node, map, how, why)]).union(*earlier))

    def joined(self, call: Call, states: Sequence[State]) -> State:
        """Tensors put together element by element; the first of them that is a map is how the result lies."""
        first = next(state for state in states if isinstance(state, Map))
        for state in states:
            apart = isinstance(state, Map) and (state.dims, state.rank) != (first.dims, first.rank)
            if apart or isinstance(state, Many):
                return self.gathered(call, first, why="joins maps whose positions stand in different dims")
            if isinstance(state, Size) and state.source is not None:
                self.joins.append((call, first, Gathered(frozenset([state.source]))))
            elif isinstance(state, Map | Gathered | Fixed):
                self.joins.append((call, first, state))
        sizes = (state.sizes for state in states if isinstance(state, Map))
        return replace(first, sizes=tuple(map(max, zip(*sizes, strict=True))))

    def demand(self, call: Call, map: Map, why: str) -> Map:
        """The same positions, if no stride was removed before."""
        self.demands.append((call, map, why))
        return map

    def evaluated(self, call: Call, known: Mapping[fx.Node, Any] | None = None) -> Any:
        """What a step makes of parameters, sizes and the tensors of ``known``, computed without data; None if nothing.

        A method is called by its name, a module as it is.
        """
        node = call.node

        def value(other: fx.Node) -> Any:
            state = self.states[other]
            return (known or {}).get(other, state.value if isinstance(state, Fixed | Size) else None)

        try:
            args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
            function: Any = call.module or node.target
            if node.op == "call_method":
                function = operator.methodcaller(str(node.target), *args[1:], **kwargs)
                args, kwargs = args[:1], {}
            with torch.device("meta"):
                return function(*args, **kwargs)
        except Exception:  # noqa: BLE001 - whatever a step does with what stands in for its tensors
            return None

    def _without_map(self, call: Call, inputs: Sequence[State]) -> State:
        sources = {source for state in inputs if isinstance(state, Gathered) for source in state.sources}
        sizes = [state for state in inputs if isinstance(state, Size)]
        counts = {state.source for state in sizes if state.source is not None}
        if sources and call.name in ("getattr", "size", "dim"):
            return Size()
        if sources:
            if call.name in STRIDED and _strides(call):
                self._hides(call, sources)
            return Gathered(frozenset(sources if call.name in SIZED else sources | counts))
        if sizes and getattr(call.node.target, "__module__", "") in ARITHMETIC:
            value = self.evaluated(call)
            picked = call.name == "getitem" and not set(AXES) & set(value if isinstance(value, tuple) else (value,))
            return Size(value, None if picked else next(iter(counts), None))
        return Gathered(frozenset(counts)) if counts else Fixed(self.evaluated(call))

    def _hides(self, call: Call, sources: Iterable[Source]) -> None:
        for source in (source for source in sources if source.how == "other"):
            why = f"{source.why}, and {call} has a stride behind it"
            self.demands.append((Call.of(self.root, source.node), NOWHERE, why))


NOWHERE = Map((), (), ())  # of what holds with no stride at all
STRIDED = {"avg_pool", "convolution", "max_pool", "planned"}
FROM_LISTS = {"cat", "concat", "concatenate", "planned"}


def _strides(call: Call) -> bool:
    stride: Any = call.get(3 if call.name == "convolution" else 2, "stride", 1 if call.name == "convolution" else None)
    return stride is None or set(stride if isinstance(stride, list | tuple) else (stride,)) != {1}


Rule = Callable[[Survey, Call, Map], State]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as what steps of these names do with a map, their first argument."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register
