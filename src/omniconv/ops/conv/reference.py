# SPDX-License-Identifier: Apache-2.0
"""The ordinary convolution as its formula: a sum over taps, any number of dimensions."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from omniconv.core.problem import ConvProblem


def source(problem: ConvProblem, axis: int, tap: int, size: int, before: int, out: int) -> tuple[Tensor, Tensor]:
    """Input positions that ``tap`` reads along one axis, and 1 where they hold data, 0 where they hold zeros."""
    at = problem.stride[axis] * torch.arange(out) + problem.dilation[axis] * tap - before
    if problem.padding_mode == "reflect":
        period = max(2 * (size - 1), 1)
        folded = at % period
        return torch.minimum(folded, period - folded), torch.ones_like(at)
    if problem.padding_mode == "replicate":
        return at.clamp(0, size - 1), torch.ones_like(at)
    if problem.padding_mode == "circular":
        return at % size, torch.ones_like(at)
    inside = (at >= 0) & (at < size)
    return at.clamp(0, size - 1), inside.to(at.dtype)


def tapped(problem: ConvProblem, input: Tensor, tap: tuple[int, ...]) -> Tensor:
    """What ``tap`` reads at every output position: shape (n, c, *out)."""
    sizes = tuple(input.shape[2:])
    pads, outs = problem.pads(sizes), problem.out_size_of(sizes)
    for axis, k in enumerate(tap):
        at, inside = source(problem, axis, k, sizes[axis], pads[axis][0], outs[axis])
        keep = inside.to(input.dtype).view(-1, *[1] * (problem.dim - 1 - axis))
        input = input.index_select(axis + 2, at) * keep
    return input


def reference(problem: ConvProblem, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y[n,o,p] = b[o] + Σ_c Σ_k W[o,c,k] x[n, c, s·p + d·k − pad]."""
    groups = problem.groups
    outs = problem.out_size_of(tuple(input.shape[2:]))
    y = input.new_zeros(input.shape[0], groups, problem.out_channels // groups, *outs)
    for tap in product(*(range(k) for k in problem.kernel_size)):
        x = tapped(problem, input, tap).unflatten(1, (groups, -1))
        at_tap: tuple[Any, ...] = (..., *tap)
        w = weight[at_tap].unflatten(0, (groups, -1))
        y = y + torch.einsum("ngc...,goc->ngo...", x, w)
    y = y.flatten(1, 2)
    return y if bias is None else y + bias.view(-1, *[1] * problem.dim)
