# SPDX-License-Identifier: Apache-2.0
"""Blur pooling: a fixed binomial kernel, the same for every channel."""

from __future__ import annotations

from typing import Any

from omniconv.core.family import Family, Kernel, Position, Setting
from omniconv.core.problem import ConvProblem

from .cases import CASES
from .cost import cost, tensors


def _at(position: Position) -> ConvProblem:
    return ConvProblem.of(
        "blur",
        position.dim,
        position.in_channels,
        position.in_channels,
        position.kernel_size,
        position.stride,
        position.keeping(position.dilation),
        position.dilation,
        groups=position.in_channels,
        in_size=position.in_size,
        batch=position.batch,
    )


def _numbers(problem: ConvProblem, in_size: tuple[int, ...]) -> tuple[Any, ...]:
    flat = tuple(p for pair in problem.pads(in_size or None) for p in pair)
    return problem.kernel_size, problem.stride, flat, problem.dilation


FAMILY = Family(
    name="blur",
    formula="y[n,c,p] = Σ_k b_k x[n, c, s·p + d·k − pad],  b the binomial coefficients over their sum",
    source="Zhang 2019",
    schema="(Tensor input, SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation) -> Tensor",
    tensors=tensors,
    numbers=_numbers,
    settings=(Setting("blur", "블러 풀링", "a fixed low-pass kernel before a stride", _at, lambda problem: True),),
    kernels=(Kernel("depthwise", "the kernel repeated for every channel, through ATen's convolution."),),
    cost=cost,
    cases=CASES,
    layers=("BlurPool1d", "BlurPool2d", "BlurPool3d"),
    functions=("blur_pool2d",),
)
