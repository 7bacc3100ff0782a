# SPDX-License-Identifier: Apache-2.0
"""The deformable convolution as its formula: a sum over taps, each a sum over the corners around its position."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from omniconv.core.pad import pad
from omniconv.core.problem import ConvProblem


def sampled(input: Tensor, positions: list[Tensor]) -> Tensor:
    """``input`` (n, c, *i) at ``positions``, one tensor (n, *p) per axis: linear between the corners, 0 outside.

    Along one axis a position at or below -1 or at or beyond the size is outside; between, the weights of the two
    corners are 1 - f and f with f the distance from the lower one, whose derivative therefore looks to the right. At
    exactly -1 the weight of position 0 is 0 and its derivative is 1.
    """
    size, shape = input.shape[2:], positions[0].shape
    flat, total = input.flatten(2), input.new_zeros(*input.shape[:2], *shape[1:])
    for corner in product((0, 1), repeat=len(size)):
        index, inside = torch.zeros(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool)
        weight = torch.ones_like(positions[0])
        for at, side, count in zip(positions, corner, size, strict=True):
            low = at.detach().floor()
            fraction = at - low
            weight = weight * torch.where((at < -1) | (at >= count), 0.0, fraction if side else 1 - fraction)
            inside &= (low + side >= 0) & (low + side < count)
            index = index * count + (low + side).nan_to_num(0).clamp(0, count - 1).long()
        value = flat.gather(2, index.flatten(1).unsqueeze(1).expand(-1, flat.shape[1], -1))
        data = torch.where(inside.unsqueeze(1), value.view_as(total), 0.0)
        total = total + data * weight.unsqueeze(1)
    return total


def reference(
    problem: ConvProblem, input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    """y[n,o,p] = b[o] + Σ_c Σ_k W[o,c,k] m[n,k,p] x[n, c, s·p + d·k − pad + Δ[n,k,p]]."""
    dim, groups, shared = problem.dim, problem.groups, problem.number("offset_groups")
    pads, outs = problem.pads(tuple(input.shape[2:])), tuple(offset.shape[2:])
    if problem.padding_mode != "zeros":
        input = pad(input, [p for pair in pads for p in pair], problem.padding_mode)
        pads = ((0, 0),) * dim
    offsets = offset.unflatten(1, (shared, -1, dim))
    masks = None if mask is None else mask.unflatten(1, (shared, -1))
    total = input.new_zeros(input.shape[0], groups, problem.out_channels // groups, *outs)
    for k, tap in enumerate(product(*map(range, problem.kernel_size))):
        columns = []
        for q, channels in enumerate(input.chunk(shared, 1)):
            positions = []
            for axis, step in enumerate(tap):
                base = problem.stride[axis] * torch.arange(outs[axis]) + problem.dilation[axis] * step - pads[axis][0]
                delta = offsets[:, q, k, axis]
                positions.append(base.view(-1, *[1] * (dim - 1 - axis)) + delta)
            column = sampled(channels, positions)
            columns.append(column if masks is None else column * masks[:, q, k].unsqueeze(1))
        x = torch.cat(columns, 1).unflatten(1, (groups, -1))
        w = weight.flatten(2)[..., k].unflatten(0, (groups, -1))
        total = total + torch.einsum("ngc...,goc->ngo...", x, w)
    y = total.flatten(1, 2)
    return y if bias is None else y + bias.view(-1, *[1] * dim)
