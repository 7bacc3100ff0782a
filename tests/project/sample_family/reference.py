# SPDX-License-Identifier: Apache-2.0
"""Blur pooling as its formula: a sum over taps."""

from __future__ import annotations

from itertools import product
from math import comb, prod

from torch import Tensor

from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.reference import tapped


def reference(problem: ConvProblem, input: Tensor) -> Tensor:
    """y[n,c,p] = Σ_k b_k x[n, c, s·p + d·k − pad]."""
    y = input.new_zeros(*input.shape[:2], *problem.out_size_of(tuple(input.shape[2:])))
    for tap in product(*(range(k) for k in problem.kernel_size)):
        share = prod(comb(k - 1, t) / 2 ** (k - 1) for t, k in zip(tap, problem.kernel_size, strict=True))
        y = y + share * tapped(problem, input, tap)
    return y
