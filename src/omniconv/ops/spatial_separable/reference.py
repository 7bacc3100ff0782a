# SPDX-License-Identifier: Apache-2.0
"""The spatially separable convolution as its formula: one dense kernel composed of the passes, then a sum over taps."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.reference import tapped


def reference(
    problem: ConvProblem,
    input: Tensor,
    depth_weight: Tensor | None,
    column_weight: Tensor,
    row_weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """y[n,o,p] = b[o] + Σ_c Σ_k (Σ_m R[o,m,k₂] C[m,c,k₁]) x[n, c, s·p + d·k − pad]."""
    weights = [weight for weight in (depth_weight, column_weight, row_weight) if weight is not None]
    dense = composed(weights, problem.groups)
    y: Any = 0
    for tap in product(*(range(k) for k in problem.kernel_size)):
        x = tapped(problem, input, tap).unflatten(1, (problem.groups, -1))
        at_tap: tuple[Any, ...] = (..., *tap)
        y = y + torch.einsum("ngc...,goc->ngo...", x, dense[at_tap])
    y = y.flatten(1, 2)
    return y if bias is None else y + bias.view(-1, *[1] * problem.dim)


def composed(weights: list[Tensor], groups: int) -> Tensor:
    """The dense kernel (g, o/g, c/g, *k) that passes with these weights amount to: Σ over the channels between."""
    first, *others = (weight.unflatten(0, (groups, -1)) for weight in weights)
    dense = first
    for weight in others:
        dense = torch.einsum("gom...,gmc...->goc...", weight, dense)
    return dense
