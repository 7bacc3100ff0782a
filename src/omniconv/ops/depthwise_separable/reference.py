# SPDX-License-Identifier: Apache-2.0
"""The depthwise separable convolution as its formula: taps within each channel, then channels within each position."""

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
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    depthwise_bias: Tensor | None,
) -> Tensor:
    """y[n,o,p] = b[o] + Σ_q V[o,q] (a[q] + Σ_k U[q,k] x[n, ⌊q/m⌋, s·p + d·k − pad])."""
    last = [1] * problem.dim
    between: Any = 0
    for tap in product(*(range(k) for k in problem.kernel_size)):
        at_tap: tuple[Any, ...] = (slice(None), 0, *tap)
        x = tapped(problem, input, tap).repeat_interleave(problem.number("multiplier"), dim=1)
        between = between + depthwise_weight[at_tap].view(-1, *last) * x
    if depthwise_bias is not None:
        between = between + depthwise_bias.view(-1, *last)
    y = torch.einsum("nq...,oq->no...", between, pointwise_weight.flatten(1))
    return y if bias is None else y + bias.view(-1, *last)
