# SPDX-License-Identifier: Apache-2.0
"""What a step of a graph is: an activation, a norm, a sum, a constant factor, or nothing at all.

Modules, functions and methods of torch that mean the same are read as the same.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from omniconv.core.follow import hooked

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
DROPPING = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
ADDS = (operator.add, operator.iadd, torch.add)
MULTIPLIES = (operator.mul, operator.imul, torch.mul, torch.multiply)
SUBTRACTS = (operator.sub, operator.isub, torch.sub, torch.subtract)
DIVIDES = (operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide)
METHODS: Mapping[str, Any] = {
    "add": torch.add,
    "add_": torch.add,
    "mul": torch.mul,
    "mul_": torch.mul,
    "multiply": torch.mul,
    "sub": torch.sub,
    "sub_": torch.sub,
    "div": torch.div,
    "div_": torch.div,
    "relu": torch.relu,
    "relu_": torch.relu,
}
_RELU = (F.relu, F.relu_, torch.relu, torch.relu_)
_ACTIVATIONS: Mapping[Any, Callable[[], nn.Module]] = {
    **dict.fromkeys(_RELU, nn.ReLU),
    F.relu6: nn.ReLU6,
    F.silu: nn.SiLU,
    F.hardswish: nn.Hardswish,
}
_MODULES = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish)
_TANH, _SIX = {"tanh"}, (0.0, 6.0)
KEEPING = (F.conv1d, F.conv2d, F.conv3d)
MISSING = object()
INFINITE = float("inf")


class Reading:
    """A graph and its modules, read."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph

    def module(self, node: fx.Node) -> Any:
        """The module that a step calls, or None."""
        return self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None

    def plain_module(self, node: fx.Node) -> Any:
        """The same, if nobody else waits for its calls and nothing stands for its parameters."""
        module = self.module(node)
        return None if module is None or hooked((module,)) or is_parametrized(module) else module

    def function(self, node: fx.Node) -> Any:
        """The function that a step calls, that of a method included, or None."""
        if node.op == "call_method":
            return METHODS.get(str(node.target))
        return node.target if node.op == "call_function" else None

    def constant(self, value: Any) -> Any:
        """The tensor that a step reads from the model, a number as it is, or None."""
        if isinstance(value, fx.Node):
            if value.op != "get_attr":
                return None
            where, _, name = str(value.target).rpartition(".")
            found = getattr(self.graph.get_submodule(where), name)
            return found if isinstance(found, Tensor) else None
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None

    def activation(self, node: fx.Node) -> nn.Module | None:
        """The activation that a step is, of those that the compiled kernels compute."""
        module = self.plain_module(node)
        if type(module) in _MODULES:
            return type(module)()
        if type(module) is nn.GELU:
            return nn.GELU(module.approximate)
        if type(module) is nn.Hardtanh:
            return nn.ReLU6() if (module.min_val, module.max_val) == _SIX else None
        function = self.function(node)
        if function in _ACTIVATIONS:
            return _ACTIVATIONS[function]()
        if function is F.gelu:
            return nn.GELU(str(argument(node, 1, "approximate", "none")))
        if function in (F.hardtanh, F.hardtanh_):
            bounds = argument(node, 1, "min_val", -1.0), argument(node, 2, "max_val", 1.0)
            return nn.ReLU6() if bounds == _SIX else None
        return None

    def affine(self, node: fx.Node, source: fx.Node, channels: int, axis: int) -> tuple[Tensor, Tensor] | None:
        """Factor and shift of each channel, in float64, if a step maps ``source`` so; its axis counts from the end."""
        norm = self._norm(node)
        if norm is not None:
            # A norm has its channels at 1, which is that axis where as many are before and behind it
            return norm if norm[0].numel() == channels and _dim(node) == 1 - axis else None
        function, arguments = self.function(node), node.args
        if len(arguments) != 2 or set(node.kwargs) - {"alpha"} or node.kwargs.get("alpha", 1) != 1:
            return None
        if any(_seen(node, key) != _seen(source, key) for key in ("shape", "dtype")):
            return None
        swapped = arguments[1] is source
        other = self.constant(arguments[0] if swapped else arguments[1])
        if other is None or arguments[0] is arguments[1]:
            return None
        line = _per_channel(other, channels, axis)
        if line is None:
            return None
        one, none = torch.ones_like(line), torch.zeros_like(line)
        if function in ADDS:
            return one, line
        if function in MULTIPLIES:
            return line, none
        if function in SUBTRACTS:
            return (-one, line) if swapped else (one, -line)
        if function in DIVIDES and not swapped:
            return 1 / line, none
        return None

    def axes_taken(self, node: fx.Node, axis: int) -> tuple[int, float]:
        """How few and how many axes ``source`` may have for ``affine`` to be the same; the channels' is counted alike.

        A norm of images or volumes refuses other numbers itself; others would take another axis for the channels.
        """
        count = 1 - axis
        if self._norm(node) is not None:
            asks = type(self.module(node)) in (nn.BatchNorm2d, nn.BatchNorm3d)
            return (0, INFINITE) if asks else (count, count)
        constants = [self.constant(argument) for argument in node.args]
        return max([0, *(one.dim() for one in constants if isinstance(one, Tensor) and one.dim() > -axis)]), INFINITE

    def _norm(self, node: fx.Node) -> tuple[Tensor, Tensor] | None:
        """A batch norm that no longer trains."""
        module = self.plain_module(node)
        if type(module) in NORMS:
            terms: tuple[Any, ...] = module.running_mean, module.running_var, module.weight, module.bias
            training, eps = module.training or module.running_mean is None, module.eps
        elif self.function(node) is F.batch_norm:
            names = "running_mean", "running_var", "weight", "bias"
            values = [argument(node, at, name, None) for at, name in enumerate(names, 1)]
            terms = tuple(None if value is None else self.constant(value) for value in values)
            if any(value is not None and term is None for value, term in zip(values, terms, strict=True)):
                return None
            training, eps = argument(node, 5, "training", default=False), argument(node, 7, "eps", 1e-5)
        else:
            return None
        if training is not False or terms[0] is None or terms[1] is None or not isinstance(eps, float):
            return None
        mean, variance = terms[0].detach().double(), terms[1].detach().double()
        factor = (variance + eps).rsqrt()
        factor = factor if terms[2] is None else factor * terms[2].detach().double()
        shift = -mean * factor
        return factor, shift if terms[3] is None else shift + terms[3].detach().double()

    def added(self, node: fx.Node, source: fx.Node) -> fx.Node | None:
        """What a step adds to ``source``: a tensor of the same shape, which is left as it was."""
        if self.function(node) not in ADDS or len(node.args) != 2 or node.kwargs.get("alpha", 1) != 1:
            return None
        if set(node.kwargs) - {"alpha"}:
            return None
        other = node.args[1] if node.args[0] is source else node.args[0]
        if not isinstance(other, fx.Node) or other is source or self.constant(other) is not None:
            return None
        if mutates(node) and node.args[0] is other:
            return None
        same = all(_seen(other, key) == _seen(source, key) != MISSING for key in ("shape", "dtype"))
        # What comes from other inputs may have another batch, which one example does not show
        return other if same and not _inputs_of(other).isdisjoint(_inputs_of(source)) else None

    def is_nothing(self, node: fx.Node) -> bool:
        """Whether a step returns what it is given: a dropout that no longer drops, an identity."""
        module = self.plain_module(node)
        if type(module) is nn.Identity or (type(module) in DROPOUTS and not module.training):
            return True
        function = self.function(node)
        if function in DROPPING:
            return argument(node, 2, "training", default=True) is False
        named = f"{getattr(function, '__module__', '')}.{getattr(function, '__name__', '')}"
        if named == "torchvision.ops.stochastic_depth.stochastic_depth":
            return argument(node, 3, "training", default=True) is False
        return False

    def keeps_axes(self, node: fx.Node) -> bool:
        """Whether the result has as many axes as the first argument, and no more is needed to know it."""
        if not node.args or not isinstance(node.args[0], fx.Node):
            return False
        module = self.module(node)
        if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase):  # noqa: SLF001
            return True
        return self.is_nothing(node) or self.activation(node) is not None or node.target in (F.batch_norm, *KEEPING)


def _inputs_of(node: fx.Node) -> set[fx.Node]:
    """The inputs of the graph that a step's result comes from."""
    found, left = {node}, [node]
    while left:
        new = set(left.pop().all_input_nodes) - found
        found |= new
        left.extend(new)
    return {one for one in found if one.op == "placeholder"}


def argument(node: fx.Node, at: int, name: str, default: Any) -> Any:
    """An argument of a call, given by place or by name."""
    return node.args[at] if at < len(node.args) else node.kwargs.get(name, default)


def mutates(node: fx.Node) -> bool:
    """Whether a step writes to what it is given."""
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op == "call_function":
        name = str(getattr(node.target, "__name__", ""))
        written = name.endswith("_") and not name.endswith("__")
        inplace = getattr(operator, name, None) is node.target and name in IN_PLACE
        return written or inplace or bool(node.kwargs.get("inplace")) or "out" in node.kwargs or name == "setitem"
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
        return bool(getattr(module, "inplace", False))
    return False


IN_PLACE = tuple(f"i{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor"))
# What of a tensor shares its memory
_PARTS = frozenset({"T", "mT", "H", "mH", "data", "real", "imag", "grad"})
_HOMES = frozenset({"torch", "torchvision", "omniconv", "operator", "_operator", "builtins", "math"})


def may_write(node: fx.Node) -> bool:
    """Whether a step may write to what it is given: one that does, or one that nobody has looked into."""
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
        known = _is_known(module) or isinstance(module, nn.modules.conv._ConvNd)  # noqa: SLF001
        return mutates(node) or not known or hooked((module,))
    if node.op == "call_function" and str(getattr(node.target, "__module__", None)).partition(".")[0] not in _HOMES:
        return not isinstance(node.target, _BUILTIN)
    return mutates(node)


_BUILTIN = type(torch.relu), type(torch.ops.aten.relu), type(torch.ops.aten.relu.default)
_ALIASES = (nn.Identity, nn.Flatten, nn.Unflatten, *DROPOUTS)
_OTHERWISE_NAMED = {"truediv": "div", "getitem": ""}
# Whose schemas do not say that they may return what they are given, or views of it
_UNSAID = frozenset({"type_as", "atleast_1d", "atleast_2d", "atleast_3d", "meshgrid", "broadcast_tensors", "einsum"})


def _is_known(module: nn.Module) -> bool:
    """Whether a module is torch's own or this library's."""
    return type(module).__module__.partition(".")[0] in ("torch", "omniconv")


def written(graph: fx.Graph) -> set[fx.Node]:
    """The steps to whose results another one writes, and those that these may be views of."""
    return {source for node in graph.nodes for source in written_by(node)}


def written_by(node: fx.Node) -> set[fx.Node]:
    """The step to whose result this one writes, and those that it may be a view of; none for most."""
    given = node.kwargs.get("out", node.args[0] if node.args else None)
    return memory_of(given) if mutates(node) else set()


def memory_of(given: Any) -> set[fx.Node]:
    """A step, or several, and those of whose results theirs may be views."""
    found: set[fx.Node] = set()
    left = [given]
    while left:
        one = left.pop()
        if isinstance(one, list | tuple):
            left.extend(one)
        elif isinstance(one, fx.Node) and one not in found:
            found.add(one)
            left.extend(_shared(one))
    return found


def _shared(node: fx.Node) -> Sequence[fx.Node]:
    """The steps with whose results this one's may share memory."""
    if node.op == "call_module":
        module = node.graph.owning_module.get_submodule(str(node.target))  # type: ignore[union-attr]
        makes = _is_known(module) and not isinstance(module, _ALIASES) and not mutates(node)
        return () if makes else node.all_input_nodes
    if node.op not in ("call_function", "call_method"):
        return ()
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
    if node.target is getattr and node.args[1] not in _PARTS:
        return ()
    return () if not mutates(node) and _makes_new(name) else node.all_input_nodes[:1]


@cache
def _makes_new(name: str) -> bool:
    """Whether a function of ATen never returns what it is given, nor a view of it."""
    packet = getattr(torch.ops.aten, _OTHERWISE_NAMED.get(name, name) or "_", None)
    if packet is None or name in _UNSAID or "dropout" in name:
        return False
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads() if not overload.endswith("out")]  # noqa: SLF001
    return not any(value.alias_info is not None for schema in schemas for value in schema.returns)


def _dim(node: fx.Node) -> int:
    return len(node.meta.get("shape", ()))


def _seen(node: fx.Node, key: str) -> Any:
    return node.meta.get(key, MISSING)


def _per_channel(other: Any, channels: int, axis: int) -> Tensor | None:
    """A constant as one number for each channel, or None where it is more than that; the axis counts from the end."""
    if not isinstance(other, Tensor):
        return torch.full((channels,), float(other), dtype=torch.float64)
    if other.is_complex():
        return None
    if other.numel() == 1 and other.dim() <= -axis:
        return other.detach().double().reshape(1).expand(channels)
    if other.dim() < -axis or other.shape[axis] != channels or other.numel() != channels:
        return None
    return other.detach().double().reshape(channels)
