# SPDX-License-Identifier: Apache-2.0
"""What a network computes in a row, as ``accelerate`` finds it, and what a family makes of it in one layer.

A family whose record says ``rewrites`` has a module of that name with ``rewrite(links)``: it returns the ``Rewrite`` of
the longest beginning of a chain that one of its layers computes, or the reason why there is none. It may
have ``telling(layer)`` too: in training, what lets a layer tell a norm behind it how its output was computed, or None.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from .activated import computed
from .follow import output_shape
from .layer import ConvLayer

Added = Literal["", "input", "other"]


@dataclass(frozen=True)
class Link:
    """One convolution, or linear map of the last axis, and what follows it; nobody else reads what stands between.

    Attributes:
        layer: a ``ConvLayer``, or torch's ``Linear``: no longer trained, its norm folded in.
        activation: of those that the compiled kernels compute (``core/follow.py``), or None.
        added: what is added before the activation: nothing, the input of the chain, or another tensor.
    """

    layer: Any
    activation: nn.Module | None = None
    added: Added = ""


@dataclass(frozen=True)
class Rewrite:
    """A layer for the first ``links`` of a chain, called with its input and, behind that, another tensor it adds."""

    links: int
    module: nn.Module
    how: str


Rewriting = Rewrite | str


class FollowedConv(nn.Module):
    """Any convolution, what is added to it and its activation: one pass over its output where nothing fuses them."""

    lays = False  # whether it may be told, by `innermost`, to lay an input's channels side by side itself

    def __init__(self, layer: ConvLayer, activation: nn.Module | None) -> None:
        super().__init__()
        self.layer, self.activation = layer, activation

    def arguments(self) -> dict[str, Any]:
        """What the class is called with for a layer like this one."""
        return {"layer": self.layer, "activation": self.activation}

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        layer = self.layer
        return computed(layer.plan, (input, layer.weight, layer.bias), None, residual, self.activation)


class Adding(nn.Module):
    """A layer and what is added before its activation, of any shape that a sum takes.

    Layers add tensors of their output's shape, in one call. One that is broadcast, or to which the output is, as a
    network may have it for inputs of other sizes, is added between the parts.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def arguments(self) -> dict[str, Any]:
        """What the class is called with for a layer like this one."""
        return {"layer": self.layer}

    def forward(self, input: Tensor, other: Tensor) -> Tensor:
        layer = self.layer
        if tuple(other.shape) == _output_shape(layer, input):
            return layer(input, other)
        plain = copy.copy(layer)  # of the same parameters
        plain._modules = dict(layer._modules)  # noqa: SLF001  # which the copy would share
        plain.activation = None
        output: Tensor = plain(input) + other
        return output if layer.activation is None else layer.activation(output)


def _output_shape(layer: Any, input: Tensor) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return (*input.shape[:-1], layer.out_features)
    owner = layer.layer if isinstance(layer, FollowedConv) else layer
    return output_shape(owner.problem, input)


def alone(links: Sequence[Link]) -> Rewrite:
    """The first link by itself, which every family's layers compute."""
    link = links[0]
    if link.activation is None and not link.added:
        return Rewrite(1, link.layer, "the compiled kernel of its family")
    return Rewrite(1, FollowedConv(link.layer, link.activation), "what follows is one pass over the output")
