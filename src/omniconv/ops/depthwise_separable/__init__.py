# SPDX-License-Identifier: Apache-2.0
"""The depthwise separable convolution: taps within each channel first, then a pointwise one across the channels."""

from __future__ import annotations

from typing import Any

from omniconv.core.choose import needs_even_zeros, needs_zeros
from omniconv.core.family import Family, Kernel, Position, Setting
from omniconv.core.problem import ConvProblem

from .benchmarks import BENCHMARKS
from .cases import CASES
from .cost import cost, parts, tensors


def _at(position: Position) -> ConvProblem:
    return ConvProblem.of(
        "depthwise_separable",
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
        multiplier=1,
        depthwise_bias=0,
    )


def _check(problem: ConvProblem) -> None:
    if problem.groups != 1:
        raise ValueError(f"`groups` (={problem.groups}) must be 1: the depthwise part has its own; use 1.")
    if problem.number("multiplier") < 1:
        raise ValueError(f"`multiplier` (={problem['multiplier']}) must be at least 1; use 1 or more.")
    if problem["depthwise_bias"] not in (0, 1):
        raise ValueError(f"`depthwise_bias` (={problem['depthwise_bias']}) must be 0 or 1 in a problem; use 0 or 1.")


def numbers(problem: ConvProblem, in_size: tuple[int, ...]) -> tuple[Any, ...]:
    """Schema arguments after the tensors: stride, padding flat (before, after per axis), dilation, mode."""
    return problem.stride, problem.flat_pads(in_size), problem.dilation, problem.padding_mode


FAMILY = Family(
    name="depthwise_separable",
    formula="y[n,o,p] = b[o] + Σ_q V[o,q] (a[q] + Σ_k U[q,k] x[n, ⌊q/m⌋, s·p + d·k − pad])",
    source="Sifre 2014; Chollet, Xception, 2017; Howard et al., MobileNets, 2017",
    schema="(Tensor input, Tensor depthwise_weight, Tensor pointwise_weight, Tensor? bias, Tensor? depthwise_bias, "
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, str padding_mode) -> Tensor",
    tensors=tensors,
    numbers=numbers,
    settings=(
        Setting(
            "depthwise-separable",
            "깊이별 분리 합성곱",
            "depthwise, then pointwise: space and channels in two steps",
            _at,
            lambda p: True,
            aliases=("separable", "dw+pw"),
            equals="standard with a kernel V[o,c]·U[c,k], when nothing stands between the two",
        ),
    ),
    kernels=(
        Kernel(
            "native",
            "depthwise, then pointwise, box by box: what stands between stays in the cache.",
            module="cpu",
            refuse=needs_zeros,
            bind="packed_bound",
        ),
        Kernel("direct", "two ATen convolutions, grouped and 1×1.", refuse=needs_even_zeros),
        Kernel("padded", "the input padded first, then two ATen convolutions."),
    ),
    cost=cost,
    cases=CASES,
    benchmarks=BENCHMARKS,
    rewrites=True,
    layers=(
        "DepthwiseSeparableConv1d",
        "DepthwiseSeparableConv2d",
        "DepthwiseSeparableConv3d",
        "InvertedResidual1d",
        "InvertedResidual2d",
        "InvertedResidual3d",
    ),
    functions=("depthwise_separable_conv1d", "depthwise_separable_conv2d", "depthwise_separable_conv3d"),
    path=parts,
    check=_check,
)
