# SPDX-License-Identifier: Apache-2.0
"""The lightweight convolution as its formula: a sum over taps whose weights the channels of a head share."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.reference import tapped


def reference(problem: ConvProblem, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y[n,c,p] = b[c] + Σ_k w[h(c),k] x[n, c, s·p + d·k − pad],  w[h] = softmax of W[h] over its taps."""
    channels, heads = problem.in_channels, problem.number("heads")
    if problem["softmax"]:
        taps = tuple(range(1, weight.dim()))
        powers = (weight - weight.detach().amax(taps, keepdim=True)).exp()
        weight = powers / powers.sum(taps, keepdim=True)
    channel = torch.arange(channels)
    interleaved = dict(problem.special).get("head_layout") == "interleaved"
    head = channel % heads if interleaved else channel // (channels // heads)
    y = input.new_zeros(*input.shape[:2], *problem.out_size_of(tuple(input.shape[2:])))
    weight = weight.flatten(1)
    for index, tap in enumerate(product(*(range(k) for k in problem.kernel_size))):
        shared = weight[head, index].view(-1, *[1] * problem.dim)
        y = y + shared * tapped(problem, input, tap)
    return y if bias is None else y + bias.view(-1, *[1] * problem.dim)
