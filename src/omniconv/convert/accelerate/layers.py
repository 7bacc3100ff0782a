# SPDX-License-Identifier: Apache-2.0
"""Convolutions and linear maps of a graph as layers of this library, and what is folded into their weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from omniconv.convert.swap import refusal, replaceable
from omniconv.core.family import families
from omniconv.core.layer import ConvLayer

from .reading import Reading, argument

CONVOLUTIONS = {F.conv1d: nn.Conv1d, F.conv2d: nn.Conv2d, F.conv3d: nn.Conv3d}
CONV_ARGUMENTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
ZERO_PADS = (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
# Subclasses that pad by the size of their input, which no trace shows, and the rule by which they do.
RULES = {"timm.layers.conv2d_same.Conv2dSame": (nn.Conv2d, "tf_same")}


@dataclass
class Mapped:
    """A step that maps channels: its layer, what it reads, and the steps that are part of it, first to last."""

    layer: Any
    input: fx.Node
    nodes: list[fx.Node]

    @property
    def channels(self) -> int:
        """Of the output."""
        return int(self.layer.out_features if self.is_linear else self.layer.out_channels)

    @property
    def is_linear(self) -> bool:
        """Whether the channels lie last."""
        return isinstance(self.layer, nn.Linear)

    @property
    def axis(self) -> int:
        """Of the channels, from the end."""
        return -1 if self.is_linear else -1 - int(self.layer.dim)


def mapped(reading: Reading, node: fx.Node, undisturbed: Callable[[fx.Node, fx.Node], bool]) -> Mapped | str | None:
    """The convolution or linear map that a step is; why one is left as it is; None where it is neither.

    ``undisturbed`` says whether nothing is written to between two steps.
    """
    if node.op == "call_module":
        found = _of_module(reading, node)
    elif node.op == "call_function":
        found = _of_function(reading, node)
    else:
        return None
    if found is None or isinstance(found, str):
        return found
    plain = Mapped(found, _source(node), [node])
    return _with_padding(reading, plain) if undisturbed(plain.input, node) else plain


def _source(node: fx.Node) -> fx.Node:
    source: Any = argument(node, 0, "input", None)
    return source


def _of_module(reading: Reading, node: fx.Node) -> Any:
    module = reading.module(node)
    if len(node.args) + len(node.kwargs) != 1 or not isinstance(_source(node), fx.Node):
        return None
    if type(module) is nn.Linear:
        return "it has hooks or computed weights" if reading.plain_module(node) is None else module
    if isinstance(module, nn.Linear) and not type(module).__module__.startswith("omniconv."):
        return f"its class {type(module).__name__} may compute something else than Linear"
    if isinstance(module, ConvLayer):
        return module if _is_linear(module) and reading.plain_module(node) is not None else None
    known = replaceable()
    if isinstance(module, tuple(known)) and is_parametrized(module):  # type: ignore[arg-type]  # all of these are modules
        return "its weights are computed at each call"
    kind, rule = RULES.get(f"{type(module).__module__}.{type(module).__qualname__}", (None, None))
    if kind is not None and reading.plain_module(node) is not None:
        return known[kind].from_torch(module, padding=rule)
    why = refusal(module, known)
    if why or type(module) not in known:
        return why.removesuffix("; give a rule for it") or None
    try:
        return known[type(module)].from_torch(module)
    except (TypeError, ValueError) as error:
        return str(error)


def _is_linear(module: ConvLayer) -> bool:
    """Whether a layer of this library is one of torch's classes too, or a special one of these, and nothing more."""
    if not type(module).__module__.startswith("omniconv.") or not set(module.state_dict()) <= {"weight", "bias"}:
        return False
    if getattr(module, "norm", None) is not None or getattr(module, "activation", None) is not None:
        return False
    return any(hasattr(nn, name) for name in families()[module.problem.family].layers)


def _of_function(reading: Reading, node: fx.Node) -> Any:
    kind = CONVOLUTIONS.get(node.target)  # type: ignore[arg-type]  # what is no function of these is not found
    if kind is None and node.target is not F.linear:
        return None
    weight = reading.constant(argument(node, 1, "weight", None))
    given = argument(node, 2, "bias", None)
    bias = None if given is None else reading.constant(given)
    if not isinstance(weight, Tensor) or (given is not None and bias is None):
        return "its weights are computed from what the network is given"
    if kind is None:
        made: Any = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    else:
        numbers = {name: argument(node, at, name, d) for at, (name, d) in enumerate(CONV_ARGUMENTS.items(), 3)}
        computed: list[fx.Node] = []
        fx.map_arg(list(numbers.values()), computed.append)
        if computed:
            return "its numbers are computed from what the network is given"
        sizes: tuple[Any, ...] = (weight.shape[1] * int(numbers["groups"]), weight.shape[0], tuple(weight.shape[2:]))
        more: dict[str, Any] = {**numbers, "bias": bias is not None, "device": "meta"}
        made = kind(*sizes, **more)
    made.weight = _parameter(weight)
    made.bias = None if bias is None else _parameter(bias)
    return made if kind is None else replaceable()[kind].from_torch(made)


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _with_padding(reading: Reading, found: Mapped) -> Mapped:
    """The same, with zeros that a step of its own pads before, if nobody else reads these."""
    layer, before = found.layer, found.input
    if found.is_linear or layer.transposed or len(before.users) > 1 or not layer.problem.fixed_pads:
        return found
    pads, own = _zeros(reading, before), layer.problem.pads()
    if pads is None or len(pads) > layer.dim or (layer.padding_mode != "zeros" and any(map(any, own))):
        return found
    pads = [(0, 0)] * (layer.dim - len(pads)) + pads[::-1]
    if "padding" not in inspect.signature(type(layer)).parameters:
        return found
    both = tuple((a + c, b + d) for (a, b), (c, d) in zip(own, pads, strict=True))
    changed = type(layer).from_torch(layer, padding=both, padding_mode="zeros")
    return Mapped(changed, _source(before), [before, *found.nodes])


def _zeros(reading: Reading, node: fx.Node) -> list[tuple[int, int]] | None:
    """How many zeros a step pads, the last axis first, or None where it is no such step."""
    module = reading.plain_module(node)
    if type(module) in ZERO_PADS:
        flat, value, mode = module.padding, getattr(module, "value", 0), "constant"
    elif node.target is F.pad:
        flat = argument(node, 1, "pad", None)
        value, mode = argument(node, 3, "value", None) or 0, argument(node, 2, "mode", "constant")
    else:
        return None
    if mode != "constant" or value != 0 or not isinstance(flat, Sequence) or len(flat) % 2:
        return None
    if not all(isinstance(amount, int) and amount >= 0 for amount in flat) or not isinstance(_source(node), fx.Node):
        return None
    return list(zip(flat[::2], flat[1::2], strict=True))


def folded(layer: Any, factor: Tensor, shift: Tensor) -> Any:
    """A layer whose output is ``factor · layer(x) + shift`` for each channel: computed in float64, rounded once."""
    weight, bias = layer.weight.detach(), layer.bias
    wide = weight.double()
    if isinstance(layer, ConvLayer) and layer.transposed:  # (c, o/g, *k)
        grouped = wide.unflatten(0, (layer.groups, -1)) * _beside(factor.view(layer.groups, 1, -1), wide.dim() + 1)
        wide = grouped.flatten(0, 1)
    else:
        wide = wide * _beside(factor, wide.dim())
    total = shift if bias is None else shift + factor * bias.detach().double()
    if isinstance(layer, nn.Linear):
        made: Any = nn.Linear(layer.in_features, layer.out_features, device="meta")
    else:
        made = type(layer).from_torch(layer)
    made.weight = _parameter(wide.to(weight.dtype))
    made.bias = _parameter(total.to(weight.dtype))
    return made.train(mode=False)


def _beside(tensor: Tensor, dim: int) -> Tensor:
    return tensor.reshape(*tensor.shape, *[1] * (dim - tensor.dim()))
