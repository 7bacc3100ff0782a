# SPDX-License-Identifier: Apache-2.0
"""Convolutions of a graph with what follows them, in chains that nobody else reads from; and layers in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from omniconv.core.chain import Adding, Link, Rewrite, Rewriting, alone
from omniconv.core.family import families

from .cleaning import unused
from .layers import Mapped, folded, mapped
from .layout import batched
from .reading import INFINITE, Reading, argument, may_write, mutates

LONGEST = 3  # links that a family may take
PERMUTES = (torch.permute,)


@dataclass
class Found:
    """One link, in the graph.

    Attributes:
        link: what it computes.
        nodes: its steps, first to last.
        input: the step whose result it reads.
        other: the step whose result is added, or None.
        moved: how axes are permuted behind a linear map, before what else follows it; () where they are not.
        folded: steps that became part of its weights.
        axes: how few and how many axes the input may have for them to mean the same.
    """

    link: Link
    nodes: list[fx.Node]
    input: fx.Node
    other: fx.Node | None = None
    moved: tuple[int, ...] = ()
    folded: list[fx.Node] = field(default_factory=list)
    axes: tuple[int, float] = (0, INFINITE)


@dataclass(frozen=True)
class Change:
    """A layer that stands for several steps.

    Attributes:
        steps: qualified names (or functions) of the steps, in their order.
        layer: the class of the new layer.
        why: why it computes the same.
        how: what is gained.
        input, other, output: names of the steps that gave these in the graph as it was.
        moved: as of the last link.
        module: the new layer.
    """

    steps: tuple[str, ...]
    layer: str
    why: str
    how: str
    input: str
    other: str | None
    output: str
    moved: tuple[int, ...]
    module: nn.Module


class Chains:
    """The rewriting of one graph, in place; its steps carry ``meta`` of the shapes and types that were seen."""

    def __init__(self, graph: fx.GraphModule, doubted: Mapping[str, str]) -> None:
        self.graph, self.reading, self.doubted = graph, Reading(graph), doubted
        self.changes: list[Change] = []
        self.left: dict[str, str] = {}
        self._gone: set[fx.Node] = set()

    def rewrite(self) -> None:
        """Put layers for chains, longest first at each place."""
        for node in list(self.graph.graph.nodes):
            if node not in self._gone and (first := self._found(node)) is not None:
                self._put(list(self._chain(first)))
        self.graph.delete_all_unused_submodules()
        self.graph.graph.lint()
        self.graph.recompile()

    def _found(self, node: fx.Node) -> Found | None:
        """The link that starts with a convolution, and all that follows it."""
        start = mapped(self.reading, node, self._undisturbed)
        if start is None or isinstance(start, str):
            if start:
                self.left[name_of(node)] = start
            return None
        if start.layer.weight.is_complex():
            self.left[name_of(node)] = "it is complex"
            return None
        return self._followed(start)

    def _followed(self, start: Mapped) -> Found:
        found = Found(Link(start.layer), list(start.nodes), start.input)
        factor = shift = None
        axis, activation, other = start.axis, None, None
        while activation is None and (step := self._next(found.nodes)) is not None:
            last = found.nodes[-1]
            plain = other is None  # only then does a factor mean the convolution alone
            affine = self.reading.affine(step, last, start.channels, axis) if plain else None
            if affine is not None:
                factor = affine[0] if factor is None else factor * affine[0]
                shift = affine[1] if shift is None else shift * affine[0] + affine[1]
                found.folded.append(step)
                least, most = self.reading.axes_taken(step, axis)
                found.axes = max(found.axes[0], least), min(found.axes[1], most)
            elif plain and start.is_linear and not found.moved and (dims := _moves_last(step, last)):
                found.moved, axis = dims, 1 - len(dims)
            else:
                other = self.reading.added(step, last) if plain else other
                if not plain or other is None:
                    activation = self.reading.activation(step) if step.args[0] is last else None
                    if activation is None:
                        break
            found.nodes.append(step)
        if found.moved and _is_permute(found.nodes[-1]):
            found.nodes.pop()
            found.moved = ()
        layer = start.layer if factor is None or shift is None else folded(start.layer, factor, shift)
        found.link, found.other = Link(layer, activation, "other" if other is not None else ""), other
        return found

    def _next(self, nodes: list[fx.Node]) -> fx.Node | None:
        """The only step that reads what the last one gives, if nothing is written to between the two."""
        users = list(nodes[-1].users)
        if len(users) != 1 or users[0].op in ("output", "placeholder") or not users[0].args:
            return None
        return users[0] if self._undisturbed(nodes[-1], users[0]) else None

    def _undisturbed(self, first: fx.Node, last: fx.Node) -> bool:
        step = first.next
        while step is not last:
            if step.op == "root" or (may_write(step) and not self._writes_its_own(step)):
                return False
            step = step.next
        return True

    def _writes_its_own(self, step: fx.Node) -> bool:
        """Whether a step writes to what only it reads, and what is new: the output of a convolution or a norm."""
        source = step.args[0] if step.args else None
        if not isinstance(source, fx.Node) or len(source.users) != 1 or not mutates(step):
            return False
        module = self.reading.plain_module(source)
        return isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase)  # noqa: SLF001

    def _chain(self, first: Found) -> Iterator[Found]:
        """This link and those that each read only the one before."""
        yield first
        for _ in range(LONGEST - 1):
            users = list(first.nodes[-1].users)
            follower = self._found_from(users[0]) if len(users) == 1 and not first.moved else None
            if follower is None or not self._undisturbed(first.nodes[-1], follower.nodes[0]):
                return
            yield follower
            first = follower

    def _found_from(self, node: fx.Node) -> Found | None:
        """The link whose first step this is: a convolution, or the padding before one."""
        for step in (node, *list(node.users)[: len(node.users) == 1]):
            found = self._found(step)
            if found is not None:
                return found if found.nodes[0] is node else None
        return None

    def _put(self, chain: list[Found]) -> None:
        """Put a layer for the beginning of a chain."""
        links = [self._link(chain, one) for one in chain]
        offers: list[Rewrite] = []
        reasons: list[str] = []
        for family in families().values():
            if family.rewrites:
                offer: Rewriting = family.part("rewrites").rewrite(links)
                if isinstance(offer, str):
                    reasons.append(offer)
                else:
                    offers.append(offer)
        if not offers and not isinstance(links[0].layer, nn.Linear):
            offers.append(alone(links))
        offers = [offer for offer in offers if self._is_trusted(chain, offer)]
        if offers:
            best = max(offers, key=lambda offer: offer.links)
            self._replace(chain[: best.links], best)
        else:
            self.left.setdefault(name_of(chain[0].nodes[0]), "; ".join(reasons))

    def _is_trusted(self, chain: list[Found], offer: Rewrite) -> bool:
        why = self.doubted.get(_stands_for(chain[offer.links - 1].nodes[-1]))
        if why:
            self.left[name_of(chain[0].nodes[0])] = why
        return not why

    @staticmethod
    def _link(chain: list[Found], one: Found) -> Link:
        if one.other is None or one.other is not chain[0].input:
            return one.link
        return Link(one.link.layer, one.link.activation, "input")

    def _replace(self, chain: list[Found], rewrite: Rewrite) -> None:
        steps, end = [step for one in chain for step in one.nodes], chain[-1]
        input, last, name = chain[0].input, steps[-1], unused(self.graph, f"accelerated_{len(self.changes)}")
        own = end.other is input and getattr(rewrite.module, "residual", False) is True  # it adds its own input
        other = None if own else end.other
        module = (rewrite.module if other is None else Adding(rewrite.module)).eval()
        self.graph.add_submodule(name, module.requires_grad_(requires_grad=False))
        self.changes.append(
            Change(
                tuple(name_of(step) for step in steps),
                type(rewrite.module).__name__,
                _why(chain),
                rewrite.how,
                _stands_for(input),
                None if other is None else _stands_for(other),
                _stands_for(last),
                end.moved,
                module,
            )
        )
        graph = self.graph.graph
        with graph.inserting_before(last.next):
            axes = max(one.axes[0] for one in chain), min(one.axes[1] for one in chain)
            if axes != (0, INFINITE):
                graph.call_function(batched, (input, *axes, len(input.meta["shape"])))
            added = () if other is None else (other,)
            if other is not None and end.moved:
                back = tuple(end.moved.index(axis) for axis in range(len(end.moved)))
                added = (graph.call_method("permute", (other, back)),)
            made = graph.call_module(name, (input, *added))
            if end.moved:
                made = graph.call_method("permute", (made, end.moved))
        made.meta = last.meta | {"stands_for": _stands_for(last)}
        last.replace_all_uses_with(made)
        for step in reversed(steps):
            graph.erase_node(step)
        self._gone.update(steps)


def _stands_for(node: fx.Node) -> str:
    """The name that this step's result had in the graph as it was."""
    return str(node.meta.get("stands_for", node.name))


def _why(chain: list[Found]) -> str:
    said = []
    if any(one.folded for one in chain):
        said.append("norms, factors and shifts of channels are part of the weights: s·(Wx + b) + t = (sW)x + (sb + t)")
    if len(chain) > 1 or any(one.link.activation is not None or one.other is not None for one in chain):
        said.append("the same operations in the same order, in one call")
    return "; ".join(said) or "the same sums of the same products"


def name_of(node: fx.Node) -> str:
    """A step as a person would look for it: the module's qualified name, or the function's."""
    if node.op in ("call_module", "get_attr"):
        return str(node.target)
    return str(getattr(node.target, "__name__", node.target)) if node.op != "placeholder" else node.name


def _is_permute(node: fx.Node) -> bool:
    return node.target in PERMUTES or (node.op == "call_method" and node.target == "permute")


def _moves_last(step: fx.Node, source: fx.Node) -> tuple[int, ...]:
    """The axes of a permutation that brings the last axis to the place of channels, () for any other step."""
    if not _is_permute(step) or step.args[0] is not source:
        return ()
    given: Any = step.args[1:] if len(step.args) > 2 else argument(step, 1, "dims", ())
    given = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
    if not isinstance(given, list | tuple) or not all(isinstance(axis, int) for axis in given):
        return ()
    dims = tuple(axis % len(given) for axis in given)
    count = len(dims)
    return dims if count > 2 and dims == (0, count - 1, *range(1, count - 1)) else ()
