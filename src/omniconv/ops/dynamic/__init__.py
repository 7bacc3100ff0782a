# SPDX-License-Identifier: Apache-2.0
"""The dynamic convolution: the kernels of a lightweight one predicted anew at every position."""

from __future__ import annotations

from typing import Any

from omniconv.core.choose import needs_zeros
from omniconv.core.family import Family, Kernel, Position, Setting
from omniconv.core.problem import ConvProblem
from omniconv.ops.lightweight.cost import check_channels, nearest_heads

from .benchmarks import BENCHMARKS
from .cases import CASES
from .cost import check, cost, for_all_positions, tensors


def _at(position: Position) -> ConvProblem:
    check_channels(position.in_channels, position.out_channels)
    problem = ConvProblem.of(
        "dynamic",
        position.dim,
        position.in_channels,
        position.out_channels,
        position.kernel_size,
        position.stride,
        position.keeping(position.dilation),
        position.dilation,
        position.in_channels,
        bias=position.bias,
        in_size=position.in_size,
        batch=position.batch,
        heads=position.heads,
        softmax=1,
        predictor=1,
    )
    check(problem)
    return problem


def _unbounded(problem: ConvProblem) -> str:
    if for_all_positions(problem) and problem.get("predictor", 0) and not problem.get("query", 0):
        return "the kernel is predicted from the mean over all positions"
    return ""


def numbers(problem: ConvProblem, in_size: tuple[int, ...]) -> tuple[Any, ...]:
    """Schema arguments after the tensors: stride, padding flat (before, after per axis), dilation, then words."""
    words = bool(problem["softmax"]), bool(problem.get("renorm_padding", 0)), problem.padding_mode
    return problem.stride, problem.flat_pads(in_size), problem.dilation, *words


FAMILY = Family(
    name="dynamic",
    formula="y[n,c,p] = b[c] + Σ_k w[n,h,k,p] x[n, c, s·p + d·k − pad],  w = softmax_k (W x[n,:,s·p]),  h = ⌊c/(C/H)⌋",
    source="Wu, Fan, Baevski, Dauphin & Auli, Pay Less Attention with Lightweight and Dynamic Convolutions, 2019; "
    "involution: Li et al. 2021",
    schema="(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "bool softmax, bool renorm, str padding_mode) -> Tensor",
    tensors=tensors,
    numbers=numbers,
    settings=(
        Setting(
            "dynamic",
            "동적 합성곱",
            "lightweight, with a kernel for each position that a linear map predicts from the input there",
            _at,
            lambda p: True,
            nearest_heads,
            aliases=("dynamicconv", "involution"),
            equals="lightweight, where every position has the same kernel",
        ),
    ),
    kernels=(
        Kernel(
            "native",
            "kernels of some positions at a time, normalised and used while they are in the cache.",
            module="cpu",
            refuse=needs_zeros,
        ),
        Kernel("accumulated", "one multiply-add of whole tensors for each tap, which copies the input once."),
    ),
    cost=cost,
    cases=CASES,
    benchmarks=BENCHMARKS,
    layers=("DynamicConv1d", "DynamicConv2d", "DynamicConv3d"),
    real_only=True,
    functions=("dynamic_conv1d", "dynamic_conv2d", "dynamic_conv3d"),
    batched=("input", "weight"),
    unbounded=_unbounded,
    check=check,
)
