# SPDX-License-Identifier: Apache-2.0
"""A step of a traced network, by one name whether it was written as a module, a function or a method."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from omniconv.core.layer import PlannedLayer

# Pointwise, though torch has no tag for them
POINTWISE = {
    "alpha_dropout", "bfloat16", "clone", "contiguous", "detach", "double", "dropout", "expand_as", "float",
    "feature_alpha_dropout", "feature_dropout", "floor_divide", "floordiv", "half", "hardswish", "identity",
    "local_response_norm", "logsigmoid", "pointwise", "prelu", "softsign", "tanhshrink", "to", "truediv", "type",
    "type_as",
}  # fmt: skip
ALONG_A_DIM = {"glu", "log_softmax", "multihead_attention", "softmax", "softmax2d", "softmin"}
KNOWN = re.compile(r"(torch|_operator|builtins|math)(\.|$)")  # whose functions are what their names say
POINTWISE_MODULES = ("torch.nn.modules.activation", "torch.nn.modules.dropout")


@dataclass(frozen=True)
class Call:
    """One step; ``name`` is that of ``torch.nn.functional`` without the number of axes, which is ``dim``."""

    node: fx.Node
    name: str
    dim: int
    module: nn.Module | None

    @classmethod
    def of(cls, root: nn.Module, node: fx.Node) -> Call:
        """What a node of a graph over ``root`` calls."""
        if node.op == "call_module":
            module = root.get_submodule(str(node.target))
            if isinstance(module, PlannedLayer):
                return cls(node, "planned", module.dim, module)
            return cls(node, *_split(_name_of(module)), module)
        target: Any = node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        if not isinstance(target, str) and not KNOWN.match(getattr(target, "__module__", None) or "torch"):
            return cls(node, f"{target.__module__}.{name}", 0, None)
        return cls(node, *_split(name if name.endswith("__") else name.rstrip("_")), None)

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """An argument of a function, at ``place`` or by its name, or an attribute of a module."""
        if self.module is not None:
            return getattr(self.module, name, default)
        return self.node.args[place] if place < len(self.node.args) else self.node.kwargs.get(name, default)

    @property
    def pointwise(self) -> bool:
        """Whether each element is made of those at its own place alone."""
        if self.name in POINTWISE:
            return True
        packet = getattr(torch.ops.aten, self.name, None) if self.name.isidentifier() else None
        tags = (getattr(packet, overload).tags for overload in packet.overloads()) if packet is not None else ()
        return any(torch.Tag.pointwise in found for found in tags)

    def __str__(self) -> str:
        if self.node.op == "call_module":
            return f"`{self.node.target}` ({type(self.module).__name__})"
        stack = list((self.node.meta.get("nn_module_stack") or {}).values())
        name = getattr(self.node.target, "__name__", self.node.target)
        return f"`{name}`" + (f" in `{stack[-1][0]}`" if stack else "")


def _split(name: str) -> tuple[str, int]:
    name = re.sub(r"^conv(?=[123]d$)", "convolution", name)
    digits = re.search(r"([123])d$", name)
    return (name[: digits.start()], int(digits[1])) if digits else (name, 0)


def _name_of(module: nn.Module) -> str:
    """``adaptive_avg_pool2d`` for an ``AdaptiveAvgPool2d``; of another class its own name, which no rule has."""
    kind: Any = type(module)
    base = next((k for k in kind.__mro__ if k.__module__.startswith("torch.nn.modules.")), kind)
    if kind.forward is not base.forward and not kind.__module__.startswith("omniconv."):
        return kind.__name__
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", base.__name__).lower()
    return "pointwise" if base.__module__ in POINTWISE_MODULES and snake not in ALONG_A_DIM else snake
