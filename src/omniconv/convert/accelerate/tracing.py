# SPDX-License-Identifier: Apache-2.0
"""A model as a graph of steps, where its forward always takes the same ones; and a reason where it does not.

``torch.fx`` runs the forward on stand-ins. What it would bake in unseen is refused: random numbers, changes of the
module, tensors that are made once and written to, autocast, a custom backward. A submodule that cannot be traced, or
whose calls others wait for, is one step, and its own submodules are looked at. Stand-ins are never None: an input that
may be left out is taken as the example has it, and a step of the graph checks that it comes so again.
"""

from __future__ import annotations

import operator
import pickle
import random
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from omniconv.core.follow import hooked
from omniconv.core.layer import PlannedLayer

from .kept import Kept, tensors_of
from .layout import given, left_out
from .reading import IN_PLACE, written_by

RANDOM = torch.Tag.nondeterministic_seeded
# What depends on how a tensor lies in memory, which other layers may lay otherwise.
LIES = frozenset({"as_strided", "as_strided_", "data_ptr", "storage", "storage_offset", "stride", "untyped_storage"})


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


class _Value(fx.Proxy):
    """A stand-in to which ``+=`` and the like write, as they do to a tensor; torch's own would return another."""


def _writing(name: str) -> Any:
    function = getattr(operator, name)

    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _name in IN_PLACE:
    setattr(_Value, f"__{_name}__", _writing(_name))


class _Tracer(fx.Tracer):
    def __init__(self, opaque: dict[str, str], absent: Collection[str]) -> None:
        super().__init__()
        self.opaque, self.absent, self.failed = opaque, absent, ""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if is_step(m):
            return True
        why = _unlike_its_class(m)
        if why:
            self.opaque[module_qualified_name] = why
        return module_qualified_name in self.opaque

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        drawn = _drawn()
        try:
            found = super().call_module(m, forward, args, kwargs)
            _check_drawn(drawn)
        except Exception:
            self.failed = self.failed or self.path_of_module(m)
            raise
        return found

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        return function, [self._as_given(arg) for arg in args]

    def _as_given(self, arg: Any) -> Any:
        """An input for the forward, and a step that raises where it is None and was not, or was and is not."""
        if not isinstance(arg, fx.Proxy) or arg.node.args != (None,):
            return arg
        name = str(arg.node.target)
        self.create_proxy("call_function", left_out if name in self.absent else given, (arg, name), {})
        return None if name in self.absent else arg


def is_step(module: nn.Module) -> bool:
    """Whether a module is one step: a layer of torch's, but for containers, or of this library's."""
    home = type(module).__module__.partition(".")[0]
    if home == "omniconv" and not type(module).__module__.startswith("omniconv.models"):
        return True
    return isinstance(module, PlannedLayer) or fx.Tracer().is_leaf_module(module, "")


def trace(model: nn.Module, absent: Collection[str] = ()) -> Traced:
    """The graph of ``model``, whose modules it shares, and what it does not look into; ``absent`` inputs are None."""
    opaque: dict[str, str] = {}
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    why = _unlike_its_class(model)
    if not why and type(model).__call__ is not nn.Module.__call__ and not isinstance(model, fx.GraphModule):
        why = "its class replaces `__call__`"
    if why:
        return Traced(None, {"": why})
    while True:
        tracer, before, drawn, made = _Tracer(opaque, absent), Kept(model), _drawn(), None
        try:
            with _watched(model):
                graph = tracer.trace(model)
            for node in graph.nodes:
                node.type = None  # an annotation may be words, which no pickle of a graph takes
            _check_drawn(drawn)
            made = fx.GraphModule(model, graph, type(model).__name__)
            wrong = _unrepeatable(made.graph)
            if changed := before.changed():
                wrong = changed[0], f"its forward changes `{changed[1]}`"
        except Exception as error:  # noqa: BLE001  # a forward may fail in any way on what is no tensor
            wrong = tracer.failed, _sentence(error)
        before.restore()
        if wrong is None:
            return Traced(made, opaque)
        where, why = wrong
        if not where or where in opaque or where not in known:
            return Traced(None, opaque | {"": why})
        opaque[where] = why


def _unlike_its_class(module: nn.Module) -> str:
    """Why a call of a module does more than the forward of its class, or ""."""
    if "forward" in vars(module):
        return "its forward was replaced on the instance"
    return "it has hooks" if hooked((module,)) else ""


def _drawn() -> tuple[Any, bytes]:
    """Where Python's and NumPy's random numbers are; torch's are seen as they are drawn."""
    numpy = sys.modules.get("numpy")
    return random.getstate(), b"" if numpy is None else pickle.dumps(numpy.random.get_state())


def _check_drawn(before: tuple[Any, bytes]) -> None:
    if _drawn() != before:
        raise UntraceableError("it draws random numbers")


def _unrepeatable(graph: fx.Graph) -> tuple[str, str] | None:
    """Where the steps of a graph would not be those of another call, and why."""
    for node in graph.nodes:
        modules = list(node.meta.get("nn_module_stack", {}).values())
        where = modules[-1][0] if modules else ""
        name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
        if name in LIES:
            return where, f"it looks at how tensors lie in memory ({name})"
        if any(source.op == "get_attr" for source in written_by(node)):
            return where, f"it writes to a tensor that does not come from its inputs ({name})"
    return None


class _Watch(TorchDispatchMode):
    """Sees what a forward computes on real tensors while it is traced: the results become constants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.own = {tensor.untyped_storage()._cdata for tensor in tensors_of(model)}  # noqa: SLF001

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if RANDOM in func.tags:
            raise UntraceableError(f"it draws random numbers ({func})")
        for argument, value in zip(func._schema.arguments, args, strict=False):  # noqa: SLF001
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes and isinstance(value, Tensor) and value.untyped_storage()._cdata in self.own:  # noqa: SLF001
                raise UntraceableError(f"it changes a tensor of its own ({func})")
        return func(*args, **kwargs)


def constant(compute: Any, model: nn.Module) -> Any:
    """What ``compute()`` returns, if it would return it again.

    Raises:
        UntraceableError: it draws random numbers, or changes a tensor of ``model``.
    """
    with torch.no_grad(), _Watch(model):
        return compute()


@contextmanager
def _watched(model: nn.Module) -> Iterator[None]:
    """Refuse what a trace would not show."""
    function, autocast = torch.autograd.Function, torch.amp.autocast_mode.autocast
    own, entered = function.__dict__["apply"], autocast.__enter__

    def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
        raise UntraceableError(f"it calls the custom autograd function {cls.__name__}, whose backward no trace shows")

    def refuse_types(*args: Any) -> Any:
        raise UntraceableError("it computes under autocast, of which a trace shows nothing")

    function.apply = classmethod(refuse)  # type: ignore[assignment, method-assign]
    autocast.__enter__ = refuse_types  # type: ignore[method-assign]
    try:
        with torch.no_grad(), _Watch(model):
            yield
    finally:
        function.apply = own  # type: ignore[method-assign]
        autocast.__enter__ = entered  # type: ignore[method-assign]


def _sentence(error: Exception) -> str:
    if isinstance(error, UntraceableError):
        return str(error)
    text = str(error).strip().splitlines()
    if isinstance(error, fx.proxy.TraceError) and "control flow" in str(error):
        return "its control flow depends on what it is given"
    return f"it cannot be traced: {type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
