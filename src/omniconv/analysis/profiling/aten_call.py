# SPDX-License-Identifier: Apache-2.0
"""One call of an operator: its arguments by their names in the schema, its outputs, and what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from omniconv.analysis.journal import tensors_in
from omniconv.core.problem import ConvProblem

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Work:
    """What one call computes. One MAC is one multiply-add; everything else stands beside.

    Attributes:
        family: the name of the convolution, ``linear``, ``matmul``, ``attention`` or ``recurrent``; "" for all else.
        bias_adds, sampling, exponentials: as in :class:`omniconv.core.cost.Step`.
        other_ops: operations beside products (see :mod:`omniconv.analysis.profiling.elementwise`).
        bytes: least bytes moved.
        problem: the convolution, for one.
        channels: in and out, where there are such.
        sizes: positions in and out.
    """

    family: str = ""
    macs: int = 0
    bias_adds: int = 0
    sampling: int = 0
    exponentials: int = 0
    other_ops: int = 0
    bytes: int = 0
    problem: ConvProblem | None = None
    channels: tuple[int, int] | None = None
    sizes: tuple[Shape, Shape] | None = None
    batch: int | None = None


@dataclass(frozen=True)
class AtenCall:
    """A call of ``func``, with its arguments by name and what it returned."""

    func: torch._ops.OpOverload
    arguments: Mapping[str, Any]
    result: Any

    @cached_property
    def name(self) -> str:
        """The operator without overload: ``aten::add_``."""
        return schema_of(self.func).name

    @cached_property
    def outputs(self) -> tuple[Tensor, ...]:
        """Every tensor among the results."""
        return tuple(tensors_in((self.result,)))

    @cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        """Every tensor among the arguments."""
        return tuple(tensors_in(self.arguments.values()))

    def shape(self, name: str) -> Shape:
        """The shape of a tensor argument."""
        return tuple(self.arguments[name].shape)

    @cached_property
    def in_elements(self) -> int:
        """Elements of the first tensor."""
        return self.inputs[0].numel() if self.inputs else 0

    @cached_property
    def out_elements(self) -> int:
        """Elements of the first output."""
        return self.outputs[0].numel() if self.outputs else 0

    @cached_property
    def bytes(self) -> int:
        """Bytes of all tensors read and of those made new."""
        return sum(map(bytes_of, self.inputs)) + self.new_bytes

    @cached_property
    def new_bytes(self) -> int:
        """Bytes of the outputs that are no views and not written in place."""
        returns = schema_of(self.func).returns
        if any(r.alias_info is not None for r in returns):
            return 0
        return sum(map(bytes_of, self.outputs))

    def as_called(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments, as the schema parts them."""
        named = {a.name for a in schema_of(self.func).arguments if a.kwarg_only}
        positional = tuple(value for name, value in self.arguments.items() if name not in named)
        return positional, {name: self.arguments[name] for name in self.arguments if name in named}

    def shapes(self) -> dict[str, Any]:
        """The arguments with shapes in place of tensors."""
        return {name: _shaped(value) for name, value in self.arguments.items()}


def schema_of(func: torch._ops.OpOverload) -> torch._C.FunctionSchema:
    """The signature of an operator."""
    return func._schema  # noqa: SLF001 - torch has no public name for it


def arguments_by_name(func: torch._ops.OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by their names in the schema, defaults included."""
    schema = schema_of(func).arguments
    given = dict(zip((a.name for a in schema), args, strict=False)) | dict(kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in schema}


def written(func: torch._ops.OpOverload, arguments: Mapping[str, Any]) -> list[Any]:
    """The arguments that the call may write to; running statistics are written even where the schema is silent."""
    schema = schema_of(func).arguments
    return [
        arguments[a.name]
        for a in schema
        if (a.alias_info is not None and a.alias_info.is_write) or a.name.startswith("running_")
    ]


def bytes_of(tensor: Tensor) -> int:
    """Bytes of the elements of ``tensor``, each counted where it appears."""
    return prod(tensor.shape) * tensor.element_size()


def _shaped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, list | tuple):
        return [_shaped(v) for v in value]
    return value
