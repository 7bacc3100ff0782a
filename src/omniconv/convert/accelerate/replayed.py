# SPDX-License-Identifier: Apache-2.0
"""A graph that is recorded for inputs of each kind, and replayed in inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from omniconv.core.follow import hooked
from omniconv.core.library import absent
from omniconv.core.native import plain, watching
from omniconv.core.observe import current_listener
from omniconv.core.replay import Recording, Replay, UnrepeatableError

from .reading import written

MOST = 8  # kinds of inputs that are recorded
MOST_SEEN = 64  # kinds of which it is remembered that they came
IDLE = 64  # calls without it, after which a recording may make room for another
BEFORE = 2  # runs of a kind before it is recorded: weights are packed when they come a second time


class Replayed(nn.Module):
    """A graph whose steps are the same for all inputs of one kind: of these shapes, strides and types.

    In inference on a CPU they are recorded at the third call of a kind, and replayed from then on. With gradients,
    under compilers, autocast, modes and hooks the graph runs as it is.

    Args:
        graph: without a step that may look at numbers to choose its way.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph
        for module in graph.modules():
            seal: Any = getattr(module, "seal", None)
            if seal is not None:
                seal()
        self._forget()

    def _forget(self) -> None:
        self._kinds: dict[Any, Any] = {}
        self._calls = 0
        self._own = [*self.graph.parameters(), *self.graph.buffers()]
        self._versions = [tensor._version for tensor in self._own]  # noqa: SLF001
        self._places: list[dict[str, Any]] = [
            place
            for module in self.graph.modules()
            for place in (module._parameters, module._buffers, module._modules)  # noqa: SLF001
            if place
        ]
        self._placed = self._in_place()
        names = [node.target for node in self.graph.graph.nodes if node.op == "placeholder"]
        self._names = [] if any(name.startswith("*") for name in names) else names
        # A recording runs more than once with the same inputs, which must then stay as they are
        writes = any(node.op == "placeholder" for node in written(self.graph.graph))
        self._repeats = not writes and not absent()
        self._hooks = [
            hooks
            for module in self.graph.modules()
            for hooks in (module._forward_hooks, module._forward_pre_hooks)  # noqa: SLF001
        ]

    def _in_place(self) -> list[int]:
        """What tells the tensors and modules that stand in the graph now from others that are put there."""
        return [*map(id, chain.from_iterable([place.values() for place in self._places]))]

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_kinds", "_calls", "_own", "_versions", "_places", "_placed", "_names", "_repeats", "_hooks")
        return {name: value for name, value in self.__dict__.items() if name not in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        found = super()._apply(fn, recurse)
        self._forget()
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return self.graph(*args, **kwargs)
        if kwargs and len(args) + len(kwargs) == len(self._names):
            found = self._in_order(args, kwargs)
            args, kwargs = (args, kwargs) if found is None else (found, {})
        if kwargs or not self._may(args):
            return self.graph(*args, **kwargs)
        kind = self._kind(args)
        held = None if kind is None else self._kinds.get(kind, 0)
        if isinstance(held, _Ready):
            self._calls = held.last = self._calls + 1
            return held(args)
        if kind is None or held is None or (held >= BEFORE and not self._has_room()):
            return self.graph(*args)
        if held < BEFORE:
            self._see(kind, held + 1)
            return self.graph(*args)
        return self._record(kind, args)

    def _in_order(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """All inputs in their places, where each place has one."""
        rest = self._names[len(args) :]
        return (*args, *(kwargs[name] for name in rest)) if all(name in kwargs for name in rest) else None

    def _see(self, kind: Any, times: int) -> None:
        """Remember a kind that came so often, in the place of the oldest that is not recorded."""
        if kind not in self._kinds and len(self._kinds) >= MOST_SEEN:
            oldest = next((one for one, held in list(self._kinds.items()) if not isinstance(held, _Ready)), None)
            self._kinds.pop(oldest, None)
        self._kinds[kind] = times

    def _has_room(self) -> bool:
        """Whether there is room for a recording; one that was not used for long makes room."""
        self._calls += 1
        ready = [(held.last, kind) for kind, held in list(self._kinds.items()) if isinstance(held, _Ready)]
        if len(ready) < MOST:
            return True
        last, kind = min(ready, key=lambda one: one[0])
        if self._calls - last <= IDLE:
            return False
        self._kinds.pop(kind, None)
        return True

    def _may(self, args: Sequence[Any]) -> bool:
        """Whether nothing but eager inference looks on."""
        if not self._repeats or not all([type(value) is Tensor and value.is_cpu for value in args]) or not plain(args):  # noqa: C419
            return False
        if torch.is_grad_enabled() and any(value.requires_grad for value in (*args, *self._own)):
            return False
        if watching() or current_listener() is not None or torch.is_autocast_enabled("cpu") or hooked(()):
            return False
        return not any(self._hooks)

    def _kind(self, args: Sequence[Tensor]) -> Any:
        if self._placed != self._in_place() or self._versions != [tensor._version for tensor in self._own]:  # noqa: SLF001
            self._forget()
        if len({value.untyped_storage().data_ptr() for value in args}) < len(args):
            return None  # a tensor that is given twice
        modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.get_num_threads()
        return (*modes, *[(value.shape, value.stride(), value.dtype) for value in args])

    def _record(self, kind: Any, args: Sequence[Tensor]) -> Any:
        """Run, and keep what is needed to do so again; a kind that cannot be replayed is remembered as such."""
        recording = Recording(args)
        self._kinds[kind] = None
        try:
            with recording:
                result = self.graph(*args)
        except UnrepeatableError:
            return self.graph(*args)
        flat, how = pytree.tree_flatten(result)
        tensors = [leaf for leaf in flat if isinstance(leaf, Tensor)]
        if len(tensors) == len(flat):
            try:
                replay = Replay(recording, tensors)
                if _same(replay(args), tensors) and self._holds(replay, args):
                    self._kinds[kind] = _Ready(replay, how, self._calls)
            except (UnrepeatableError, RuntimeError):
                pass
        return result

    def _holds(self, replay: Replay, args: Sequence[Tensor]) -> bool:
        """Whether it gives what the graph gives for other numbers: those of the inputs in another order."""
        others = [_turned(value) for value in args]
        return _same(replay(others), pytree.tree_leaves(self.graph(*others)))


class _Ready:
    """A replay and how its results are returned."""

    def __init__(self, replay: Replay, how: Any, last: int) -> None:
        self.replay, self.how, self.last = replay, how, last  # the last: the number of the last call that used it
        self.single = how == pytree.tree_structure(0)

    def __call__(self, args: Sequence[Tensor]) -> Any:
        found = self.replay(args)
        return found[0] if self.single else pytree.tree_unflatten(found, self.how)


def _turned(value: Tensor) -> Tensor:
    """Its numbers from the last to the first, laid as they lie."""
    other = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return other.copy_(value.flip(tuple(range(value.dim()))))


def _same(found: Sequence[Any], right: Sequence[Any]) -> bool:
    return len(found) == len(right) and all(
        one.dtype == other.dtype
        and one.stride() == other.stride()
        and torch.equal(one.nan_to_num(), other.nan_to_num())
        for one, other in zip(found, right, strict=True)
    )
