# SPDX-License-Identifier: Apache-2.0
"""Run one call of a model again by itself, on numbers of the same shape, type and layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan


@dataclass(frozen=True)
class Spec:
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Spec:
        return cls(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)

    def made(self) -> Tensor:
        """Such a tensor, filled with numbers between 0 and 1 in floating types and with zeros in others."""
        tensor = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        if not tensor.is_floating_point():
            return tensor.zero_()
        # An expanded tensor has fewer numbers than elements, and only those can be written.
        real = tuple(n if s else 1 for n, s in zip(self.shape, self.stride, strict=True))
        numbers = torch.linspace(0.1, 1.0, max(torch.Size(real).numel(), 1), device=self.device).to(self.dtype)
        tensor[tuple(slice(n) for n in real)] = numbers[: torch.Size(real).numel()].view(real)
        return tensor


@dataclass(frozen=True)
class Recipe:
    """A call with specs in place of its tensors. Equal recipes take equal time, and are run once."""

    what: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]

    @classmethod
    def of(cls, what: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Recipe:
        """Keep a call of an operator, or of a family's problem."""
        return cls(what, _frozen(tuple(args)), tuple((key, _frozen(value)) for key, value in kwargs.items()))

    def call(self) -> Callable[[], Any]:
        """A function without arguments that runs it."""
        run = Plan(self.what) if isinstance(self.what, ConvProblem) else self.what
        args = tree_map(_thawed, self.args)
        kwargs = {key: tree_map(_thawed, value) for key, value in self.kwargs}
        return lambda: run(*args, **kwargs)


def _frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Spec.of(value)
    if isinstance(value, list | tuple):
        return tuple(_frozen(v) for v in value)
    return value


def _thawed(value: Any) -> Any:
    return value.made() if isinstance(value, Spec) else value
