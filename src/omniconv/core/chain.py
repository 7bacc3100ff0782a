# SPDX-License-Identifier: Apache-2.0
"""What a network computes in a row, as ``accelerate`` finds it, and what a family makes of it in one layer.

A family whose record says ``rewrites`` has a module of that name with ``rewrite(links)``: it returns the ``Rewrite`` of
the longest beginning of a chain that one of its layers computes, or the reason why there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from .activated import computed
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

    def __init__(self, layer: ConvLayer, activation: nn.Module | None) -> None:
        super().__init__()
        self.layer, self.activation = layer, activation

    def arguments(self) -> dict[str, Any]:
        """What the class is called with for a layer like this one."""
        return {"layer": self.layer, "activation": self.activation}

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        layer = self.layer
        return computed(layer.plan, (input, layer.weight, layer.bias), None, residual, self.activation)


def alone(links: Sequence[Link]) -> Rewrite:
    """The first link by itself, which every family's layers compute."""
    link = links[0]
    if link.activation is None and not link.added:
        return Rewrite(1, link.layer, "the compiled kernel of its family")
    return Rewrite(1, FollowedConv(link.layer, link.activation), "what follows is one pass over the output")
