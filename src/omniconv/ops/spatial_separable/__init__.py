# SPDX-License-Identifier: Apache-2.0
"""The spatially separable convolution: one pass along each axis, K×1 then 1×K."""

from __future__ import annotations

from typing import Any

from omniconv.core.choose import needs_even_zeros, needs_zeros
from omniconv.core.family import Family, Kernel, Position, Setting
from omniconv.core.problem import ConvProblem

from .benchmarks import BENCHMARKS
from .cases import CASES
from .cost import cost, passes, tensors


def _at(position: Position) -> ConvProblem:
    problem = ConvProblem.of(
        "spatial_separable",
        position.dim,
        position.in_channels,
        position.out_channels,
        position.kernel_size,
        position.stride,
        position.keeping(position.dilation),
        position.dilation,
        bias=position.bias,
        in_size=position.in_size,
        batch=position.batch,
        mid=min(position.in_channels, position.out_channels),
    )
    check(problem)
    return problem


def check(problem: ConvProblem) -> None:
    """Raise ``ValueError`` unless there are axes to separate and channels between the passes that the groups divide."""
    if problem.dim == 1:
        raise ValueError(
            f"`kernel_size` (={problem.kernel_size}) has one axis, so there is nothing to separate in space; use two "
            "or three axes, or a depthwise separable convolution, which separates channels from space."
        )
    mid, groups = problem.number("mid"), problem.groups
    if mid < 1 or mid % groups:
        nearest = max(round(mid / groups), 1) * groups
        raise ValueError(
            f"`mid_channels` (={mid}) must be a multiple of `groups` (={groups}), 1 or more; use {nearest}."
        )


def numbers(problem: ConvProblem, in_size: tuple[int, ...]) -> tuple[Any, ...]:
    """Schema arguments after the tensors: stride, padding flat (before, after per axis), dilation, groups, mode."""
    return problem.stride, problem.flat_pads(in_size), problem.dilation, problem.groups, problem.padding_mode


def _native_refuses(problem: ConvProblem) -> str | None:
    if problem.dim != 2:
        return f"it makes two passes in one, and there are {problem.dim}."
    channels = problem.in_channels
    if (channels, channels, channels) != (problem.number("mid"), problem.out_channels, problem.groups):
        return "the channels are mixed or multiplied, which needs all of the first pass before the second."
    return needs_zeros(problem)


FAMILY = Family(
    name="spatial_separable",
    formula="y[n,o,p] = b[o] + Σ_m Σ_k₂ R[o,m,k₂] Σ_c Σ_k₁ C[m,c,k₁] x[n, c, s·p + d·(k₁,k₂) − pad]",
    source="Rigamonti et al. 2013; Jaderberg, Vedaldi & Zisserman 2014; Szegedy et al. 2016 (1×7, 7×1)",
    schema="(Tensor input, Tensor? depth_weight, Tensor column_weight, Tensor row_weight, Tensor? bias, "
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, str padding_mode) -> Tensor",
    tensors=tensors,
    numbers=numbers,
    settings=(
        Setting(
            "spatial-separable",
            "공간 분리 합성곱",
            "one pass along each axis: K×1 into the channels between, then 1×K out of them",
            _at,
            lambda p: True,
            aliases=("factorized", "asymmetric", "1xN Nx1"),
            equals="standard with a kernel that is a sum of outer products, one for each channel between",
        ),
    ),
    kernels=(
        Kernel(
            "native",
            "depthwise, both passes in one on a kernel of our own.",
            module="cpu",
            refuse=_native_refuses,
        ),
        Kernel("direct", "one ATen convolution per axis.", refuse=needs_even_zeros),
        Kernel("padded", "the axis of each pass padded first, then one ATen convolution per axis."),
    ),
    cost=cost,
    cases=CASES,
    benchmarks=BENCHMARKS,
    layers=("SpatialSeparableConv2d", "SpatialSeparableConv3d"),
    functions=("spatial_separable_conv2d", "spatial_separable_conv3d"),
    path=passes,
    check=check,
)
