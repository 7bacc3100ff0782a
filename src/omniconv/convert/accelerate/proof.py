# SPDX-License-Identifier: Apache-2.0
"""Whether a network computes what another does: both beside the same in float64, each with its own rounding.

A result counts as the same where it is no further from float64 than a few times what the original is, whose rounding
is of the same kind: other orders of the same sums.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .chains import Change

# Of the original's own distance from float64, and of a type's precision at the largest number.
TIMES, ROUNDINGS = 8.0, 64.0
MOST_GROWN = 2  # inputs of another size at a time


@dataclass(frozen=True)
class Distance:
    """How far two results are from one in float64, at most over all elements.

    Attributes:
        ours, theirs: max |Δ| of the new network and of the original.
        allowed: the largest distance that counts as rounding.
        largest: the largest number of the result.
    """

    ours: float
    theirs: float
    allowed: float
    largest: float

    @property
    def holds(self) -> bool:
        """Whether they compute the same; never for what is not a number in one of them alone."""
        return self.ours <= self.allowed


UNKNOWN = Distance(float("inf"), 0.0, 0.0, 0.0)


def distance(right: Any, theirs: Any, ours: Any) -> Distance:
    """Of two results from the one in float64; each may be a tensor, or tensors in lists, dictionaries and objects.

    Raises:
        ValueError: they are not built alike.
    """
    (wanted, _), (kept, its), (new, new_how) = (pytree.tree_flatten(_open(value)) for value in (right, theirs, ours))
    if new_how != its or len(wanted) != len(new):
        raise ValueError(f"it returns {new_how} where the network returns {its}")
    found = Distance(0.0, 0.0, 0.0, 0.0)
    for exact, old, now in zip(wanted, kept, new, strict=True):
        if not isinstance(old, Tensor):
            continue
        if not isinstance(now, Tensor) or now.shape != old.shape or now.dtype != old.dtype:
            raise ValueError(f"it returns {_shape(now)} where the network returns {_shape(old)}")
        found = _further(found, _of(exact, old, now))
    return found


def _open(value: Any) -> Any:
    """What stands in objects that are no containers of torch's, as dictionaries; numbers as tensors."""

    def opened(leaf: Any) -> Any:
        if isinstance(leaf, float):
            return torch.tensor(leaf, dtype=torch.float64)
        if isinstance(leaf, Mapping):
            return _open(dict(leaf))
        if is_dataclass(leaf) and not isinstance(leaf, type):
            return _open({name.name: getattr(leaf, name.name) for name in fields(leaf)})
        plain = isinstance(leaf, Tensor | nn.Module | type) or not hasattr(leaf, "__dict__")
        return leaf if plain else _open(dict(vars(leaf)))

    return pytree.tree_map(opened, value)


def _shape(value: Any) -> str:
    return f"{value.dtype} of {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _of(exact: Tensor, old: Tensor, now: Tensor) -> Distance:
    if not old.dtype.is_floating_point and not old.dtype.is_complex:
        return Distance(0.0 if torch.equal(old, now) else float("inf"), 0.0, 0.0, 0.0)
    if old.numel() == 0:
        return Distance(0.0, 0.0, 0.0, 0.0)
    finite = exact.isfinite() & old.isfinite()
    if not torch.equal(old.isnan(), now.isnan()) or not bool(now[finite].isfinite().all()):
        return Distance(float("inf"), 0.0, 0.0, 0.0)
    if not bool(finite.any()):
        return Distance(0.0, 0.0, 0.0, 0.0)
    wide = exact[finite].to(torch.complex128 if exact.is_complex() else torch.float64)
    largest = float(wide.abs().max())
    theirs, ours = (float((value[finite] - wide).abs().max()) for value in (old, now))
    return Distance(ours, theirs, TIMES * theirs + ROUNDINGS * torch.finfo(old.dtype).eps * largest, largest)


def _further(one: Distance, other: Distance) -> Distance:
    """The one that is further beyond what is allowed; what is equal without rounding says nothing."""
    if other.ours == other.allowed == 0:
        return one
    return other if other.ours - other.allowed >= one.ours - one.allowed or one.largest == 0 else one


def widened(value: Any) -> Any:
    """Floating tensors in float64, all else as it is."""

    def wide(leaf: Any) -> Any:
        floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
        return leaf.double() if floating else leaf

    return pytree.tree_map(wide, value)


class Wide(TorchDispatchMode):
    """Computes in float64 whatever floating type a forward names."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = {key: _wide(value) for key, value in (kwargs or {}).items()}
        written = [a.alias_info is not None and a.alias_info.is_write for a in func._schema.arguments]  # noqa: SLF001
        given = [arg if writes else widened(arg) for arg, writes in zip(args, written, strict=False)]
        return func(*given, **named)


def _wide(value: Any) -> Any:
    if isinstance(value, torch.dtype) and value.is_complex:
        return torch.complex128
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


class Steps(fx.Interpreter):
    """A graph that is called with one value for each of its inputs, those that stand for several included."""

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        return next(self.args_iter) if target.startswith("*") else super().placeholder(target, args, kwargs)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        return _as_written(super().output(target, args, kwargs))


def _as_written(value: Any) -> Any:
    """Lists and dictionaries of a graph, which cannot be changed, as those that its code returns."""
    if isinstance(value, dict):
        return {key: _as_written(part) for key, part in value.items()} if type(value) is immutable_dict else value
    if type(value) in (tuple, immutable_list):
        parts = [_as_written(part) for part in value]
        return parts if type(value) is immutable_list else tuple(parts)
    return value


class Exact(Steps):
    """A graph in float64 that keeps the results which are asked for."""

    def __init__(self, graph: fx.GraphModule, wanted: set[str]) -> None:
        super().__init__(copy.deepcopy(graph).double(), garbage_collect_values=True)
        self.wanted, self.kept = wanted, {}  # type: ignore[var-annotated]

    def run_node(self, n: fx.Node) -> Any:
        found = super().run_node(n)
        if n.name in self.wanted:
            self.kept[n.name] = found.clone() if isinstance(found, Tensor) else found
        return found


def proved(graph: fx.GraphModule, changes: Sequence[Change], inputs: Sequence[Any]) -> dict[int, Distance]:
    """For each change its distance from the steps that it stands for, on what these are given in float64."""
    wanted = {name for change in changes for name in (change.input, change.other, change.output) if name}
    with torch.no_grad():
        exact = Exact(graph, wanted)
        try:
            with Wide():
                exact.run(*widened(inputs))
        except Exception:  # noqa: BLE001  # what cannot be computed in float64 cannot be proved
            return dict.fromkeys(range(len(changes)), UNKNOWN)
        return {at: _one(graph, change, exact.kept) for at, change in enumerate(changes)}


def _one(graph: fx.GraphModule, change: Change, kept: Mapping[str, Tensor]) -> Distance:
    try:
        return _compared(graph, change, kept)
    except (ValueError, TypeError, RuntimeError):  # another shape or type
        return UNKNOWN


def _compared(graph: fx.GraphModule, change: Change, kept: Mapping[str, Tensor]) -> Distance:
    dtype = next(change.module.parameters()).dtype
    given = {name: kept[name].to(dtype) for name in (change.input, change.other) if name}
    theirs = _steps(graph, given, change.output)
    other = [] if change.other is None else [given[change.other]]
    if other and change.moved:
        other = [other[0].permute([change.moved.index(axis) for axis in range(len(change.moved))])]
    ours = change.module(given[change.input], *other)
    ours = ours.permute(change.moved) if change.moved else ours
    exact = kept[change.output]
    # Inputs are rounded first: what that changes counts for both, and is part of `theirs`.
    return distance(exact, theirs, ours)


def _steps(graph: fx.GraphModule, given: Mapping[str, Tensor], last: str) -> Any:
    """What the steps up to ``last`` make of some results that are given, in the type that these have."""
    run, nodes = fx.Interpreter(graph, garbage_collect_values=False), {node.name: node for node in graph.graph.nodes}
    found: dict[fx.Node, Any] = {nodes[name]: value.clone() for name, value in given.items()}

    def value(node: fx.Node) -> Any:
        if node not in found:
            for before in node.all_input_nodes:
                value(before)
            run.env = found
            found[node] = run.run_node(node)
        return found[node]

    return value(nodes[last])


def random_inputs(inputs: Sequence[Any], change: Callable[[Tensor], Tensor]) -> list[Any]:
    """Inputs of the same kind: floating tensors drawn anew by ``change``."""

    def drawn(leaf: Any) -> Any:
        return change(leaf) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return pytree.tree_map(drawn, list(inputs))


def variations(inputs: Sequence[Any], generator: torch.Generator) -> Iterator[tuple[str, list[Any]]]:
    """The inputs, random ones of their sizes, and of another batch and other sizes where they have such axes."""

    def normal(leaf: Tensor, shape: Sequence[int]) -> Tensor:
        made = torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
        return made.to(dtype=leaf.dtype, device=leaf.device)

    yield "the inputs given", list(inputs)
    yield "random inputs", random_inputs(inputs, lambda leaf: normal(leaf, leaf.shape))
    if any(isinstance(leaf, Tensor) and leaf.dim() > 2 for leaf in pytree.tree_leaves(inputs)):
        yield "another batch", random_inputs(inputs, lambda leaf: normal(leaf, _rebatched(leaf)))
        for name, by in (("larger inputs", 32), ("inputs of odd sizes", 17)):
            yield name, random_inputs(inputs, lambda leaf, by=by: normal(leaf, _grown(leaf, by)))  # type: ignore[misc]


def _rebatched(leaf: Tensor) -> tuple[int, ...]:
    return (2 if leaf.shape[0] == 1 else 1, *leaf.shape[1:]) if leaf.dim() else ()


def _grown(leaf: Tensor, by: int) -> tuple[int, ...]:
    """Larger, and two of them at most: products in float64 take their time."""
    few, more = tuple(min(size, MOST_GROWN) for size in leaf.shape[:1]), leaf.shape[1:]
    return (*few, *more[:1], *(size + by for size in more[1:])) if leaf.dim() > 2 else (*few, *more)


def module_in_float64(model: nn.Module) -> nn.Module:
    """A copy that computes in float64."""
    return copy.deepcopy(model).double()
