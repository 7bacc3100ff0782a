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
from .pieces import Example, Piece, pieces_of, placed, prove, rewrite
from .proof import Distance, Wide, distance, module_in_float64, variations, widened
from .replayed import Replayed
from .report import Entry, Report

ORDERS = ("in order", "channels last")
SEED = 20170412  # of the random inputs
NOT_REACHED = "the example does not pass through it"
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
        pieces, opaque, inputs = self._looked()
        for piece in pieces:
            self._rewrite(piece, inputs[piece.path])
        said: dict[str, Any] = {"opaque": opaque}
        said["left"] = {piece.full(name): why for piece in pieces for name, why in piece.left.items()}
        if not any(piece.changes for piece in pieces):
            return self.own, Report(refused="there is nothing in it that could be faster", **said)
        said["changes"] = tuple(entry for piece in pieces for entry in _entries(piece))
        pieces = [piece for piece in pieces if piece.changes]
        said["removed"] = tuple(piece.full(name) for piece in pieces for name in piece.removed)
        return self._choose(pieces, said)

    def _looked(self) -> tuple[list[Piece], dict[str, str], dict[str, list[Any]]]:
        """The pieces that the example passes through, why there are no others, and what each is called with."""
        example = Example()
        while True:
            pieces, opaque = pieces_of(self.own, example)
            calls = self._calls_of(pieces)
            passed = [piece for piece in pieces if piece.path in calls]
            other = {piece.path: NOT_REACHED for piece in pieces if piece not in passed}
            example.misread |= other  # but it may call what stands in it
            if not any([example.teaches(piece, *calls[piece.path]) for piece in passed] + [*other]):
                break
        inside = [f"{path}." for path, why in opaque.items() if why == NOT_REACHED]
        opaque = {
            path: why for path, why in opaque.items() if why != NOT_REACHED or not any(map(path.startswith, inside))
        }
        return pieces, opaque, {path: inputs for path, (inputs, _) in calls.items()}

    def _rewrite(self, piece: Piece, inputs: list[Any]) -> None:
        """Rewrite a piece, again without what could not be proved."""
        while True:
            rewrite(piece)
            if not self.verify or not piece.changes:
                return
            prove(piece, inputs)
            wrong = [at for at, found in piece.distances.items() if not found.holds]
            if not wrong:
                return
            piece.again(
                {
                    piece.changes[at].output: f"max|Δ| {piece.distances[at].ours:.1e} was more than rounding"
                    for at in wrong
                }
            )

    def _calls_of(self, pieces: list[Piece]) -> dict[str, tuple[list[Any], Any]]:
        """What each piece is called with first, and returns, when the model runs the example."""
        given: dict[str, Any] = {}
        found: dict[str, tuple[list[Any], Any]] = {}
        own = copy.deepcopy(self.own)  # which a call may change
        for piece in pieces:

            def before(module: nn.Module, args: Any, kwargs: Any, piece: Piece = piece) -> None:
                if piece.path not in given:
                    given[piece.path] = _copied_all(placed(piece.graph, args, kwargs))

            def behind(module: nn.Module, args: Any, output: Any, piece: Piece = piece) -> None:
                if piece.path not in found and given[piece.path] is not None:
                    found[piece.path] = given[piece.path], _copied_all(output)

            own.get_submodule(piece.path).register_forward_pre_hook(before, with_kwargs=True)
            own.get_submodule(piece.path).register_forward_hook(behind)
        try:
            self._call(own)
        except Exception as error:
            raise ValueError(f"`example_input` is not what the model takes: {type(error).__name__}: {error}") from error
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
        for piece in sorted(pieces, key=lambda piece: len(piece.path)):  # what stands in another comes behind it
            faster = copy.deepcopy(_running(piece, innermost=innermost))
            if piece.path:
                network.set_submodule(piece.path, faster)
            else:
                network = faster
        return network

    def _verified(self, network: nn.Module) -> dict[str, Distance]:
        """Distances of the whole from float64.

        Raises:
            ValueError: one is more than rounding.
        """
        exact = module_in_float64(self.own)
        found: dict[str, Distance] = {}
        own, twin, network = (copy.deepcopy(one) for one in (self.own, self.own, network))  # which calls may change
        generator = torch.Generator().manual_seed(SEED)
        values, how = pytree.tree_flatten((self.args, self.kwargs))
        for name, inputs in variations(values, generator):
            args, kwargs = pytree.tree_unflatten(inputs, how)
            try:
                with torch.no_grad():
                    theirs = own(*_copied_all(args), **_copied_all(kwargs))
            except Exception as error:  # noqa: BLE001  # a model may refuse other sizes in any way
                self.skipped[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                continue
            if not found and not self._is_repeated(twin, theirs, (args, kwargs)):
                raise ValueError(f"{name}: it returns other numbers at each call")
            found[name] = self._distance(name, network, exact, theirs, (args, kwargs))
        return found

    @staticmethod
    def _is_repeated(twin: nn.Module, theirs: Any, given: tuple[Any, Any]) -> bool:
        """Whether a copy of the model returns the same."""
        args, kwargs = _copied_all(given)
        with torch.no_grad():
            return distance(widened(theirs), theirs, twin(*args, **kwargs)).holds

    def _distance(
        self, name: str, network: nn.Module, exact: nn.Module, theirs: Any, given: tuple[Any, Any]
    ) -> Distance:
        args, kwargs = given
        try:
            with torch.no_grad():
                with Wide():
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
        own, tried = copy.deepcopy(self.own), copy.deepcopy(dict(networks))  # which calls may change
        calls: dict[str, Callable[[], object]] = {"before": lambda: own(*self.args, **self.kwargs)}
        for order, network in tried.items():
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


def _copied(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _copied_all(values: Any) -> Any:
    return pytree.tree_map(_copied, values)
