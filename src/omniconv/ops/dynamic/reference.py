# SPDX-License-Identifier: Apache-2.0
"""The dynamic convolution as its formula: a sum over taps whose weights change with the position."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.reference import tapped


def reference(problem: ConvProblem, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y[n,c,p] = b[c] + Σ_k w[n,h(c),k,p] x[n, c, s·p + d·k − pad],  w = softmax over k of W where asked."""
    channels, heads = problem.in_channels, problem.number("heads")
    if problem["softmax"]:
        weight = _shares(problem, weight, tuple(input.shape[2:]))
    head = torch.arange(channels) // (channels // heads)
    y = input.new_zeros(*input.shape[:2], *problem.out_size_of(tuple(input.shape[2:])))
    weight = weight.flatten(2, 1 + problem.dim)
    for index, tap in enumerate(product(*(range(k) for k in problem.kernel_size))):
        y = y + weight[:, head, index] * tapped(problem, input, tap)
    return y if bias is None else y + bias.view(-1, *[1] * problem.dim)


def _shares(problem: ConvProblem, weight: Tensor, in_size: tuple[int, ...]) -> Tensor:
    """Softmax over the taps; those on padding take no part where the problem asks for that."""
    taps = tuple(range(2, 2 + problem.dim))
    counted = torch.ones_like(weight)
    if dict(problem.special).get("renorm_padding"):
        ones = weight.new_ones(1, 1, *in_size)
        walks = [tapped(problem, ones, tap)[0, 0] for tap in product(*(range(k) for k in problem.kernel_size))]
        counted = (
            torch.stack(walks).unflatten(0, problem.kernel_size).expand(*weight.shape[:2], *[-1] * 2 * problem.dim)
        )
    powers = (weight - weight.detach().amax(taps, keepdim=True)).exp() * counted
    total = powers.sum(taps, keepdim=True)
    return powers / torch.where(total > 0, total, 1)
