# SPDX-License-Identifier: Apache-2.0
"""The lightweight convolution: depthwise, with one kernel for all channels of a head, normalised over its taps."""

from __future__ import annotations

from typing import Any

from omniconv.core.choose import needs_even_zeros, needs_zeros
from omniconv.core.family import Family, Kernel, Position, Setting
from omniconv.core.problem import ConvProblem

from .benchmarks import BENCHMARKS
from .cases import CASES
from .cost import check, check_channels, cost, nearest_heads, tensors


def _at(position: Position) -> ConvProblem:
    check_channels(position.in_channels, position.out_channels)
    problem = ConvProblem.of(
        "lightweight",
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
    )
    check(problem)
    return problem


def numbers(problem: ConvProblem, in_size: tuple[int, ...]) -> tuple[Any, ...]:
    """Schema arguments after the tensors: stride, padding flat (before, after per axis), dilation, then words."""
    layout = problem.get("head_layout", "block")
    return (
        problem.stride,
        problem.flat_pads(in_size),
        problem.dilation,
        bool(problem["softmax"]),
        layout,
        problem.padding_mode,
    )


FAMILY = Family(
    name="lightweight",
    formula="y[n,c,p] = b[c] + Σ_k w[h,k] x[n, c, s·p + d·k − pad],  w[h] = softmax_k W[h,k],  h = ⌊c/(C/H)⌋",
    source="Wu, Fan, Baevski, Dauphin & Auli, Pay Less Attention with Lightweight and Dynamic Convolutions, 2019",
    schema="(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "bool softmax, str head_layout, str padding_mode) -> Tensor",
    tensors=tensors,
    numbers=numbers,
    settings=(
        Setting(
            "lightweight",
            "경량 합성곱",
            "depthwise, with one kernel for all channels of a head, its taps normalised to sum to 1",
            _at,
            lambda p: True,
            nearest_heads,
            aliases=("lightconv", "light"),
            equals="depthwise with each head's normalised kernel repeated for the C/H channels of the head",
        ),
    ),
    kernels=(
        Kernel(
            "native",
            "softmax and convolution in one, each head's kernel read by its channels where it stands.",
            module="cpu",
            refuse=needs_zeros,
            words=("zeros", "block", "interleaved"),
        ),
        Kernel(
            "direct", "each head's kernel repeated for its channels, then ATen's depthwise.", refuse=needs_even_zeros
        ),
        Kernel("padded", "the input padded first, then ATen's depthwise with each head's kernel repeated."),
    ),
    cost=cost,
    cases=CASES,
    benchmarks=BENCHMARKS,
    layers=("LightweightConv1d", "LightweightConv2d", "LightweightConv3d"),
    real_only=True,
    functions=("lightweight_conv1d", "lightweight_conv2d", "lightweight_conv3d"),
    check=check,
)
