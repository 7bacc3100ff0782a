# SPDX-License-Identifier: Apache-2.0
"""A model as a graph of steps, where its forward always takes the same ones; and a reason where it does not.

``torch.fx`` runs the forward on stand-ins. What it would bake in unseen is refused: random numbers, changes of the
module, a custom backward. A submodule that cannot be traced is one step, and its own submodules are looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from omniconv.core.layer import PlannedLayer

RANDOM = torch.Tag.nondeterministic_seeded
SIMPLE = (bool, int, float, str, bytes, type(None))


class UntraceableError(Exception):
    """A forward that may take other steps another time; the text says why."""


@dataclass
class Traced:
    """What was found of a model.

    Attributes:
        graph: the steps, or None where the model's own forward cannot be traced.
        opaque: by qualified name, why a submodule (or the model, "") is not looked into.
    """

    graph: fx.GraphModule | None
    opaque: dict[str, str] = field(default_factory=dict)


class _Tracer(fx.Tracer):
    def __init__(self, opaque: dict[str, str]) -> None:
        super().__init__()
        self.opaque, self.failed = opaque, ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_step(m) or module_qualified_name in self.opaque

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise


def is_step(module: nn.Module) -> bool:
    """Whether a module is one step: a layer of torch's, but for containers, or of this library's."""
    home = type(module).__module__.partition(".")[0]
    if home == "omniconv" and not type(module).__module__.startswith("omniconv.models"):
        return True
    return isinstance(module, PlannedLayer) or fx.Tracer().is_leaf_module(module, "")


def trace(model: nn.Module) -> Traced:
    """The graph of ``model``, whose modules it shares, and what it does not look into."""
    opaque: dict[str, str] = {}
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    while True:
        tracer, before = _Tracer(opaque), _state(model)
        try:
            with _watched(model):
                graph = tracer.trace(model)
            changed = _changed(before, model)
        except Exception as error:  # noqa: BLE001  # a forward may fail in any way on what is no tensor
            changed = tracer.failed, _sentence(error)
        if changed is None:
            return Traced(fx.GraphModule(model, graph, type(model).__name__), opaque)
        _restore(before, model)
        where, why = changed
        if not where or where in opaque or where not in known:
            return Traced(None, opaque | {"": why})
        opaque[where] = why


class _Watch(TorchDispatchMode):
    """Sees what a forward computes on real tensors while it is traced: the results become constants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}  # noqa: SLF001

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if RANDOM in func.tags:
            raise UntraceableError(f"it draws random numbers ({func})")
        for argument, value in zip(func._schema.arguments, args, strict=False):  # noqa: SLF001
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes and isinstance(value, Tensor) and value.untyped_storage()._cdata in self.own:  # noqa: SLF001
                raise UntraceableError(f"it changes a parameter or buffer ({func})")
        return func(*args, **kwargs)


def constant(compute: Any, model: nn.Module) -> Any:
    """What ``compute()`` returns, if it would return it again.

    Raises:
        UntraceableError: it draws random numbers, or changes a parameter or buffer of ``model``.
    """
    with torch.no_grad(), _Watch(model):
        return compute()


@contextmanager
def _watched(model: nn.Module) -> Iterator[None]:
    """Refuse what a trace would not show."""
    function = torch.autograd.Function
    own = function.__dict__["apply"]

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        raise UntraceableError(f"it calls the custom autograd function {cls.__name__}, whose backward no trace shows")

    function.apply = classmethod(refuse)  # type: ignore[assignment, method-assign]
    try:
        with torch.no_grad(), _Watch(model):
            yield
    finally:
        function.apply = own  # type: ignore[method-assign]


def _state(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What numbers and words, and lists of them, stand in each module."""
    found = {}
    for name, module in model.named_modules():
        kept = {key: value for key, value in vars(module).items() if key != "training" and _is_simple(value)}
        found[name] = copy.deepcopy(kept)
    return found


def _is_simple(value: Any, depth: int = 2) -> bool:
    if isinstance(value, list | tuple | set | dict) and depth:
        parts = value.items() if isinstance(value, dict) else value
        return all(_is_simple(part, depth - (not isinstance(value, dict))) for part in parts)
    return type(value) in SIMPLE


def _changed(before: dict[str, dict[str, Any]], model: nn.Module) -> tuple[str, str] | None:
    """Which module a forward has changed, and how."""
    now = _state(model)
    for name, values in before.items():
        keys = values.keys() | now.get(name, {}).keys()
        for key in sorted(keys):
            missing = object()
            if values.get(key, missing) != now.get(name, {}).get(key, missing):
                return name, f"its forward changes `{key}`"
    return None


def _restore(before: dict[str, dict[str, Any]], model: nn.Module) -> None:
    for name, module in model.named_modules():
        for key, value in before.get(name, {}).items():
            vars(module)[key] = value


def _sentence(error: Exception) -> str:
    if isinstance(error, UntraceableError):
        return str(error)
    text = str(error).strip().splitlines()
    if isinstance(error, fx.proxy.TraceError) and "control flow" in str(error):
        return "its control flow depends on what it is given"
    return f"it cannot be traced: {type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
