# SPDX-License-Identifier: Apache-2.0
"""Both parts of the block, the norms and activations after each, and what is added, in one call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from omniconv.core.check import TensorCheck
from omniconv.core.choose import broad_groups, choose
from omniconv.core.flat import Flat
from omniconv.core.follow import Packing, activation_code, hooked, norm_terms, takes
from omniconv.core.native import PLAIN
from omniconv.core.problem import ConvProblem

from . import FAMILY
from .cost import parts


def followed(problem: ConvProblem) -> Followed | None:
    """What computes a layer of this problem at once, where the compiled kernel takes it."""
    return Followed(problem) if problem.fixed_pads and choose(problem).kernel.compiled else None


class Followed:
    """The compiled kernel of one problem in eager inference."""

    def __init__(self, problem: ConvProblem) -> None:
        self.problem, self.packing = problem, Packing()
        self._flat = Flat(FAMILY.schema, ("zeros",)).pack(FAMILY.numbers(problem, ()))
        self._leaves = tuple(getattr(torch, name) for name in broad_groups(parts(problem)[1]))
        self._check = TensorCheck(FAMILY, problem)
        self._call = torch.ops.omniconv.separable_followed.default._op  # noqa: SLF001

    def __reduce__(self) -> tuple[Any, tuple[ConvProblem]]:
        return followed, (self.problem,)

    def __call__(self, layer: Any, input: Tensor, residual: Tensor | None) -> Tensor | None:
        """What ``layer`` computes, or None where its parts must be called one by one."""
        if is_dynamo_compiling() or type(input) not in PLAIN or input.dim() != self.problem.dim + 2:
            return None
        between, after = activation_code(layer.mid_activation), activation_code(layer.activation)
        mid_norm, norm = (norm_terms(norm, self.problem.dim) for norm in (layer.mid_norm, layer.norm))
        if between is None or after is None or mid_norm is None or norm is None:
            return None
        if hooked((layer.mid_norm, layer.mid_activation, layer.norm, layer.activation)):
            return None
        taps, bias, across, shift = layer.depthwise_weight, layer.depthwise_bias, layer.pointwise_weight, layer.bias
        apart = layer.mid_norm is not None or layer.mid_activation is not None  # else the plan computes both at once
        tensors = input, taps, across, shift, bias
        if not takes((*tensors, residual, *mid_norm[0], *norm[0]), self._leaves if apart else ()):
            return None
        packed = self.packing.of(input, across)
        numbers = (*self._flat, between, after)
        try:
            return self._call(input, taps, bias, *mid_norm, across, packed, shift, *norm, residual, numbers)
        except (RuntimeError, TypeError):
            self._check(tensors)  # says what is wrong better than a kernel can
            raise
