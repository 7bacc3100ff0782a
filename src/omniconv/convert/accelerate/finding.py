# SPDX-License-Identifier: Apache-2.0
"""The way from a copy of a model to the network that runs: rewrite, prove, choose a layout, time; or leave as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from omniconv.analysis.timing import Timing, interleaved, ratios

from .layout import laid
from .pieces import Piece, pieces_of, placed, prove, rewrite
from .proof import Distance, distance, module_in_float64, variations, widened
from .replayed import Replayed
from .report import Entry, Report

ORDERS = ("in order", "channels last")
SEED = 20170412  # of the random inputs
LEAST_GAIN = 0.98  # of the time before: what takes longer is not worth the change


@dataclass
class Finding:
    """One acceleration.

    Attributes:
        own: a copy of the model, for inference.
        args, kwargs: the example.
        layout, seconds, verify: as ``accelerate`` takes them.
    """

    own: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    layout: str
    seconds: float
    verify: bool
    skipped: dict[str, str] = field(default_factory=dict)

    def run(self) -> tuple[nn.Module, Report]:
        """The network and what is to be said of it."""
        pieces, opaque = pieces_of(self.own)
        inputs = self._inputs_of(pieces)
        for piece in list(pieces):
            if piece.path not in inputs:
                opaque[piece.path] = "the example does not pass through it"
                pieces.remove(piece)
                continue
            self._rewrite(piece, inputs[piece.path])
        said: dict[str, Any] = {"opaque": opaque}
        said["left"] = {piece.full(name): why for piece in pieces for name, why in piece.left.items()}
        if not any(piece.changes for piece in pieces):
            return self.own, Report(refused="there is nothing in it that could be faster", **said)
        said["changes"] = tuple(entry for piece in pieces for entry in _entries(piece))
        said["removed"] = tuple(piece.full(name) for piece in pieces for name in piece.removed)
        return self._choose(pieces, said)

    def _rewrite(self, piece: Piece, inputs: list[Any]) -> None:
        """Rewrite a piece, again without what could not be proved."""
        while True:
            rewrite(piece, inputs)
            if not self.verify or not piece.changes:
                return
            prove(piece, inputs, _dtype(self.own))
            wrong = [at for at, found in piece.distances.items() if not found.holds]
            if not wrong:
                return
            piece.again(
                {
                    piece.changes[at].output: f"max|Δ| {piece.distances[at].ours:.1e} was more than rounding"
                    for at in wrong
                }
            )

    def _inputs_of(self, pieces: list[Piece]) -> dict[str, list[Any]]:
        """What each piece is called with first, when the model runs the example."""
        found: dict[str, list[Any]] = {}
        handles = []
        for piece in pieces:

            def note(module: nn.Module, args: Any, kwargs: Any, piece: Piece = piece) -> None:
                if piece.path not in found:
                    found[piece.path] = pytree.tree_map(_copied, placed(piece.graph, args, kwargs))

            handles.append(self.own.get_submodule(piece.path).register_forward_pre_hook(note, with_kwargs=True))
        try:
            self._call(self.own)
        except Exception as error:
            raise ValueError(f"`example_input` is not what the model takes: {type(error).__name__}: {error}") from error
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _call(self, network: nn.Module) -> Any:
        with torch.no_grad():
            return network(*_copied_all(self.args), **_copied_all(self.kwargs))

    def _choose(self, pieces: list[Piece], said: dict[str, Any]) -> tuple[nn.Module, Report]:
        orders = ORDERS[::-1] if self.layout == "auto" else (self.layout,)
        networks, whole, refused = {}, {}, ""
        for order in orders:
            network = self._assembled(pieces, order)
            try:
                whole[order] = self._verified(network) if self.verify else {}
                networks[order] = network
            except ValueError as error:
                refused = str(error)
        said["skipped"] = self.skipped
        if not networks:
            return self.own, Report(**said | {"changes": ()}, refused=f"the whole was not proved: {refused}")
        times = self._timed(networks)
        best = min(networks, key=lambda order: times[order].median) if times else next(iter(networks))
        shown = {"before": times["before"], "after": times[best]} if times else {}
        shown |= {order: timing for order, timing in times.items() if order not in ("before", best)}
        report = Report(**said, layout=best, whole=whole[best], times=shown)
        if times and ratios(times, "before")[best].median > 1 / LEAST_GAIN:
            return self.own, Report(**said, times=shown, whole=whole[best], refused="it would not be faster")
        return networks[best], report

    def _assembled(self, pieces: list[Piece], order: str) -> nn.Module:
        """The network with its pieces in one layout."""
        innermost = order == "channels last"
        if [piece.path for piece in pieces] == [""]:
            return _running(pieces[0], innermost=innermost)
        network = copy.deepcopy(self.own)
        for piece in pieces:
            network.set_submodule(piece.path, copy.deepcopy(_running(piece, innermost=innermost)))
        return network

    def _verified(self, network: nn.Module) -> dict[str, Distance]:
        """Distances of the whole from float64.

        Raises:
            ValueError: one is more than rounding.
        """
        exact, found = module_in_float64(self.own), {}
        generator = torch.Generator().manual_seed(SEED)
        values, how = pytree.tree_flatten((self.args, self.kwargs))
        for name, inputs in variations(values, generator):
            args, kwargs = pytree.tree_unflatten(inputs, how)
            try:
                with torch.no_grad():
                    theirs = self.own(*_copied_all(args), **_copied_all(kwargs))
            except Exception as error:  # noqa: BLE001  # a model may refuse other sizes in any way
                self.skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                continue
            found[name] = self._distance(name, network, exact, theirs, (args, kwargs))
        return found

    def _distance(
        self, name: str, network: nn.Module, exact: nn.Module, theirs: Any, given: tuple[Any, Any]
    ) -> Distance:
        args, kwargs = given
        try:
            with torch.no_grad():
                right = exact(*widened(_copied_all(args)), **widened(_copied_all(kwargs)))
                ours = network(*_copied_all(args), **_copied_all(kwargs))
        except Exception as error:
            raise ValueError(f"{name}: {type(error).__name__}: {error}") from error
        found = distance(right, theirs, ours)
        if not found.holds:
            raise ValueError(f"{name}: max|Δ| {found.ours:.1e} is more than rounding, {found.allowed:.1e}")
        return found

    def _timed(self, networks: Mapping[str, nn.Module]) -> dict[str, Timing]:
        if not self.seconds > 0:
            return {}
        calls: dict[str, Callable[[], object]] = {"before": lambda: self.own(*self.args, **self.kwargs)}
        for order, network in networks.items():
            calls[order] = lambda network=network: network(*self.args, **self.kwargs)  # type: ignore[misc]
        with torch.no_grad():
            return interleaved(calls, seconds=self.seconds, settle_seconds=0.02)


def _running(piece: Piece, *, innermost: bool) -> nn.Module:
    """A piece as a module; one that looks into all of itself takes the same steps each time, and is replayed."""
    graph = laid(piece.faster, innermost=innermost)
    return graph if piece.looks_elsewhere else Replayed(graph)


def _entries(piece: Piece) -> Iterator[Entry]:
    for at, change in enumerate(piece.changes):
        names = tuple(piece.full(step) for step in change.steps)
        yield Entry(names, change.layer, change.why, change.how, piece.distances.get(at))


def _dtype(model: nn.Module) -> torch.dtype:
    floating = (t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point())
    return next(floating, torch.float32)


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _copied_all(values: Any) -> Any:
    return pytree.tree_map(_copied, values)
