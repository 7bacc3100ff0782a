# SPDX-License-Identifier: Apache-2.0
"""One rule per operator: from the fields of its inputs to the fields of its outputs.

Rules are found by the operator's name without overload or trailing underscore. Pointwise operators need none: torch
tags them. An operator without a rule is taken to mix all positions, and says so in a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from omniconv.analysis.field.layout import Field
from omniconv.analysis.field.merge import merged


@dataclass(frozen=True)
class Call:
    """One call of an operator: its arguments by name, the shapes of its outputs, and what its tensors depend on."""

    name: str
    arguments: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    fields: Callable[[torch.Tensor], Field]
    where: str = ""

    @property
    def why(self) -> str:
        """The operator as notes name it, and the module that called it."""
        return f"`{self.name.removeprefix('aten::')}`" + (f" in `{self.where}`" if self.where else "")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first output."""
        return self.shapes[0]

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, *arguments: str) -> Any:
        """The first of ``arguments`` that this operator has and was given."""
        return next((v for v in map(self.arguments.get, arguments) if v is not None), None)

    def tensors(self) -> Iterator[torch.Tensor]:
        """Every tensor among the arguments."""
        for value in self.arguments.values():
            for item in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(item, torch.Tensor):
                    yield item

    def field(self, *arguments: str) -> Field:
        """The field of the tensor given as the first of ``arguments`` that is there."""
        return self.fields(self.get(*arguments))

    @property
    def first(self) -> Field:
        """The field of the first tensor among the arguments."""
        return self.fields(next(self.tensors()))

    def dim(self, name: str = "dim", ndim: int | None = None) -> int:
        """The argument ``name`` as a dim counted from the front."""
        return int(self[name]) % (len(self.first.dims) if ndim is None else ndim)

    def dims(self, name: str = "dim") -> tuple[int, ...]:
        """The dims named by an argument that may be one, several, or empty for all."""
        value, ndim = self.arguments.get(name), len(self.first.dims)
        if value is None or (isinstance(value, (list, tuple)) and not value):
            return tuple(range(ndim))
        return tuple(int(d) % ndim for d in (value if isinstance(value, (list, tuple)) else (value,)))

    def merged(self, *fields: Field) -> Field:
        """The hull of ``fields``, broadcast to the first output."""
        return merged(fields, self.shape, self.why)


Rule = Callable[[Call], "Field | Sequence[Field]"]
SomeRule = TypeVar("SomeRule", bound=Rule)

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[SomeRule], SomeRule]:
    """Register a function as the rule of operators; a name without namespace is one of ATen's."""

    def register(function: SomeRule) -> SomeRule:
        RULES.update({name if "::" in name else f"aten::{name}": function for name in names})
        return function

    return register


def schema_of(func: Any) -> torch.FunctionSchema:
    """What an operator declares about its arguments and results."""
    return func._schema  # noqa: SLF001 - torch offers no other way to it


def name_of(func: Any) -> str:
    """``aten::add`` for ``aten::add_.Tensor``."""
    name: str = schema_of(func).name
    return name if name.endswith("__") else name.rstrip("_")


def rule_of(func: Any) -> Rule:
    """The rule that an operator follows."""
    found = RULES.get(name_of(func))
    return found or (pointwise if _is_pointwise(func) else unknown)


def has_rule(func: Any) -> bool:
    """Whether it is known what an operator does."""
    return name_of(func) in RULES or _is_pointwise(func)


def _is_pointwise(func: Any) -> bool:
    packet = func.overloadpacket
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())


@rule(
    "_to_copy", "_prelu_kernel", "clone", "contiguous", "fake_quantize_per_tensor_affine", "hardswish", "lift_fresh",
    "log_sigmoid_forward", "native_dropout", "rrelu_with_noise", "fake_quantize_per_channel_affine", "bernoulli",
    "fake_quantize_per_tensor_affine_cachemask", "complex", "polar", "masked_fill", "rsub", "alias", "detach",
    "resolve_conj", "resolve_neg", "_conj", "real", "imag", "copysign", "where", "special_erf", "isclose", "dequantize",
    "tril", "triu",
)  # fmt: skip
def pointwise(call: Call) -> Field:
    """Every element depends on the elements at its own place."""
    return call.merged(*map(call.fields, call.tensors()))


@rule("copy")
def _copied(call: Call) -> Field:
    return call.merged(call.field("src"))


@rule(
    "empty_like", "exponential", "fill", "full_like", "new_empty", "new_empty_strided", "new_full", "new_ones",
    "new_zeros", "normal", "ones_like", "rand_like", "randint_like", "randn_like", "random", "uniform", "zero",
    "zeros_like",
)  # fmt: skip
def _made_anew(call: Call) -> Field:
    """New values; at most a scalar tensor that fills them matters."""
    value = call.arguments.get("value")
    fields = (call.fields(value),) if isinstance(value, torch.Tensor) else ()
    return call.merged(Field.independent(call.shape, len(call.first.axes)), *fields)


def unknown(call: Call) -> Field:
    """Anything may depend on anything; elements keep their places where the shape stays."""
    found = [f.marked(range(len(f.axes)), is_global=True) for f in map(call.fields, call.tensors()) if f.depends]
    fields = [f if f.shape == call.shape else f.reduced(range(len(f.dims)), call.why) for f in found]
    return call.merged(*fields).noted(f"{call.why} is not known here and is taken to mix all positions")
