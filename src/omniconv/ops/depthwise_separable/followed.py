# SPDX-License-Identifier: Apache-2.0
"""Both parts of the block, the norms and activations after each, and what is added, in one call.

An inverted residual is the block behind a pointwise convolution with a norm and an activation of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from omniconv.core.check import TensorCheck
from omniconv.core.choose import broad_groups, choose
from omniconv.core.flat import Flat
from omniconv.core.follow import Packing, activation_code, hooked, norm_terms, takes
from omniconv.core.native import PLAIN
from omniconv.core.problem import ConvProblem
from omniconv.ops import conv

from . import FAMILY
from .cost import parts


def followed(problem: ConvProblem, sealed: bool = False) -> Followed | None:
    """What computes a layer of this problem at once, where the compiled kernel takes it; weights as ``Packing``'s."""
    return Followed(problem, sealed) if problem.fixed_pads and choose(problem).kernel.compiled else None


def inverted(expansion: ConvProblem, block: Followed | None) -> Inverted | None:
    """What computes a block behind a pointwise convolution, where that gives its channels at every position."""
    if block is None or expansion.groups != 1 or set(expansion.stride) != {1}:
        return None
    return Inverted(expansion, block) if expansion.out_channels == block.problem.in_channels else None


class Given(NamedTuple):
    """What the compiled kernels are told of a block behind its input."""

    tensors: tuple[Any, ...]
    numbers: tuple[int, ...]


class Followed:
    """The compiled kernel of one problem in eager inference."""

    def __init__(self, problem: ConvProblem, sealed: bool) -> None:
        self.problem, self.packing = problem, Packing(sealed=sealed)
        self.check = TensorCheck(FAMILY, problem)
        self._flat = Flat(FAMILY.schema, ("zeros",)).pack(FAMILY.numbers(problem, ()))
        self._leaves = tuple(getattr(torch, name) for name in broad_groups(parts(problem)[1]))
        self._call: Callable[..., Tensor] = torch.ops.omniconv.separable_followed.default._op  # noqa: SLF001

    def __reduce__(self) -> tuple[Any, tuple[ConvProblem, bool]]:
        return followed, (self.problem, self.packing.sealed)

    def seal(self) -> None:
        """Take it that nobody changes the weights past torch's count, and look at none of them."""
        self.packing = Packing(sealed=True)

    def __call__(self, layer: Any, input: Tensor, residual: Tensor | None) -> Tensor | None:
        """What ``layer`` computes, or None where its parts must be called one by one."""
        apart = layer.mid_norm is not None or layer.mid_activation is not None  # else the plan computes both at once
        given = self.given(layer, input, residual, apart=apart)
        if given is None:
            return None
        try:
            return self._call(input, *given.tensors, given.numbers)
        except (RuntimeError, TypeError):
            self.check(tensors_of(layer, input))  # says what is wrong better than a kernel can
            raise

    def given(
        self, layer: Any, input: Tensor, residual: Tensor | None, *, apart: bool, others: Sequence[Any] = ()
    ) -> Given | None:
        """What the kernel is told, or None where parts must be called one by one; it reads ``others`` too."""
        if is_dynamo_compiling() or type(input) not in PLAIN or input.dim() != self.problem.dim + 2:
            return None
        between, after = activation_code(layer.mid_activation), activation_code(layer.activation)
        mid_norm, norm = (norm_terms(norm, self.problem.dim) for norm in (layer.mid_norm, layer.norm))
        if between is None or after is None or mid_norm is None or norm is None:
            return None
        if hooked((layer.mid_norm, layer.mid_activation, layer.norm, layer.activation)):
            return None
        taps, across = layer.depthwise_weight, layer.pointwise_weight
        tensors = *tensors_of(layer, input), residual, *mid_norm[0], *norm[0], *others
        if not takes(tensors, self._leaves if apart else ()):
            return None
        packed = self.packing.of(input, across)
        first = taps, layer.depthwise_bias, *mid_norm
        return Given((*first, across, packed, layer.bias, *norm, residual), (*self._flat, between, after))


def tensors_of(layer: Any, input: Tensor) -> tuple[Tensor | None, ...]:
    """The tensors of the family's schema."""
    return input, layer.depthwise_weight, layer.pointwise_weight, layer.bias, layer.depthwise_bias


# Boxes whose taps reach over so many lines of positions expand most of them again and again; and more numbers than so
# many, of a sample, are more than a call takes from the system and gives back in the time that it saves.
MOST_LINES, MOST_EXPANDED = 7, 1 << 22


class Inverted:
    """The compiled kernel of one inverted residual in eager inference."""

    def __init__(self, expansion: ConvProblem, block: Followed) -> None:
        self.expansion, self.block, self.packing = expansion, block, Packing(sealed=block.packing.sealed)
        self._check = TensorCheck(conv.FAMILY, expansion)
        self._call: Callable[..., Tensor] = torch.ops.omniconv.inverted_followed.default._op  # noqa: SLF001

    def __reduce__(self) -> tuple[Any, tuple[ConvProblem, Followed]]:
        return inverted, (self.expansion, self.block)

    def __call__(self, expansion: Any, layer: Any, input: Tensor, residual: Tensor | None) -> Tensor | None:
        """What ``layer`` makes of what ``expansion`` makes of the input, or None where both must be called."""
        if type(input) not in PLAIN:
            return None
        norm, code = norm_terms(expansion.norm, self.block.problem.dim), activation_code(expansion.activation)
        if norm is None or code is None or hooked((expansion, layer, expansion.norm, expansion.activation)):
            return None
        lines, inside = prod(self.block.problem.span[:-1]), prod(input.shape[2:]) * self.expansion.out_channels
        if lines > MOST_LINES and inside > MOST_EXPANDED:
            return None
        weight, bias = expansion.weight, expansion.bias
        given = self.block.given(layer, input, residual, apart=True, others=(weight, bias, *norm[0]))
        if given is None:
            return None
        packed = self.packing.of(input, weight)
        try:
            return self._call(input, weight, packed, bias, *norm, *given.tensors, (*given.numbers, code))
        except (RuntimeError, TypeError):
            self._check((input, weight, bias))
            expanded = input.narrow(1, 0, 1).expand(-1, self.expansion.out_channels, *input.shape[2:])
            self.block.check(tensors_of(layer, expanded))  # which stands for what it reads
            raise
