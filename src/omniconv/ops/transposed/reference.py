# SPDX-License-Identifier: Apache-2.0
"""The transposed convolution as its formula: every input scatters one product per tap, any number of dimensions."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from omniconv.core.problem import ConvProblem


def reference(problem: ConvProblem, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y[n, o, s·i + d·k − crop] += Σ_c W[c,o,k] x[n,c,i], and b[o] everywhere."""
    sizes, groups = tuple(input.shape[2:]), problem.groups
    crops, outs = problem.pads(sizes), problem.out_size_of(sizes)
    whole = [size + before + after for size, (before, after) in zip(outs, crops, strict=True)]
    y = input.new_zeros(input.shape[0], groups, problem.out_channels // groups, *whole)
    x = input.unflatten(1, (groups, -1))
    for tap in product(*(range(k) for k in problem.kernel_size)):
        at_tap: tuple[Any, ...] = (..., *tap)
        w = weight[at_tap].unflatten(0, (groups, -1))
        places: tuple[Any, ...] = (
            ...,
            *(
                slice(d * k, d * k + (size - 1) * s + 1, s)
                for d, k, size, s in zip(problem.dilation, tap, sizes, problem.stride, strict=True)
            ),
        )
        scattered = torch.zeros_like(y)
        scattered[places] = torch.einsum("ngc...,gco->ngo...", x, w)
        y = y + scattered
    kept: tuple[Any, ...] = (
        ...,
        *(slice(before, before + out) for (before, _), out in zip(crops, outs, strict=True)),
    )
    y = y[kept].flatten(1, 2)
    return y if bias is None else y + bias.view(-1, *[1] * problem.dim)
