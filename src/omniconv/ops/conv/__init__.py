# SPDX-License-Identifier: Apache-2.0
"""The ordinary convolution and its settings: standard, dilated, grouped, depthwise, pointwise, causal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omniconv.core.choose import broad_groups, needs_even_zeros, needs_zeros, wide_groups
from omniconv.core.family import Family, Kernel, Position, Setting
from omniconv.core.numbers import divisors
from omniconv.core.problem import ConvProblem

from .benchmarks import BENCHMARKS
from .cases import CASES
from .cost import cost, tensors
from .outside import OUTSIDE

# A Xeon of the fourth generation, two threads, oneDNN 3.12: at 6 columns of padding copies to channels last take 1.1 to
# 1.3 times as long as the convolution in order, at 7 columns 0.5 to 0.9 times.
LEAST_WIDE_PADDING = 7


def _at(position: Position, **changes: Any) -> ConvProblem:
    dilation = changes.pop("dilation", position.dilation)
    arguments: dict[str, Any] = {"padding": position.keeping(dilation), "kernel_size": position.kernel_size} | changes
    return ConvProblem.of(
        "conv",
        position.dim,
        position.in_channels,
        position.out_channels,
        stride=position.stride,
        dilation=dilation,
        bias=position.bias,
        in_size=position.in_size,
        batch=position.batch,
        **arguments,
    )


def _dilated(position: Position) -> ConvProblem:
    return _at(position, dilation=tuple(d if d > 1 else 2 for d in position.dilation))


def _depthwise_nearest(position: Position) -> tuple[Position, str] | None:
    c, o = position.in_channels, position.out_channels
    if o % c == 0:
        return None
    nearest = max(c, round(o / c) * c)
    return replace(position, out_channels=nearest), f"needs out a multiple of in; shown at {c} → {nearest}"


def _grouped_nearest(position: Position) -> tuple[Position, str] | None:
    legal = divisors(position.in_channels, position.out_channels)
    if position.groups in legal:
        return None
    groups = min(legal, key=lambda g: (abs(g - position.groups), g))
    return replace(position, groups=groups), f"{position.groups} groups do not divide the channels; shown with {groups}"


def is_depthwise(problem: ConvProblem) -> bool:
    """Whether each input channel meets filters of its own."""
    return problem.groups == problem.in_channels > 1


def _is_pointwise(problem: ConvProblem) -> bool:
    return problem.groups == 1 and all(k == 1 for k in problem.kernel_size)


def is_unpadded_pointwise(problem: ConvProblem) -> bool:
    """Whether every output is a linear map of one position of the input."""
    unpadded = problem.fixed_pads and not any(map(any, problem.pads()))
    return _is_pointwise(problem) and unpadded and problem.padding_mode == "zeros"


def _is_dilated(problem: ConvProblem) -> bool:
    spread = any(d > 1 and k > 1 for d, k in zip(problem.dilation, problem.kernel_size, strict=True))
    return problem.groups == 1 and spread


def _native_refuses(problem: ConvProblem) -> str | None:
    if is_unpadded_pointwise(problem):
        return None
    return wide_groups(problem) or needs_zeros(problem)


def _channels_last_refuses(problem: ConvProblem) -> str | None:
    if problem.dim != 2 or problem.groups != 1 or problem.stride != (1, 1):
        return "it is for two axes, strides of 1 and every channel meeting every other."
    why = needs_even_zeros(problem)
    if why is None and problem.pads()[1][0] < LEAST_WIDE_PADDING:
        why = f"oneDNN is fast on tensors in order while fewer than {LEAST_WIDE_PADDING} columns are padded."
    if why is None and (problem.in_channels < 64 or problem.out_channels < 128):
        why = "with fewer than 64 channels in or 128 out the copies cost what they save."
    return why


def _image_refuses(problem: ConvProblem) -> str | None:
    if problem.dim != 1 or problem.groups != 1 or problem.in_channels < 16:
        return "it is for one axis and for 16 channels or more that all meet each other."
    return needs_even_zeros(problem)


def numbers(problem: ConvProblem, in_size: tuple[int, ...]) -> tuple[Any, ...]:
    """Schema arguments after the tensors: stride, padding flat (before, after per axis), dilation, groups, mode."""
    return problem.stride, problem.flat_pads(in_size), problem.dilation, problem.groups, problem.padding_mode


def _overrideable(stride: Any, padding: Any, dilation: Any, groups: Any, mode: str) -> tuple[Any, ...] | None:
    if padding[::2] != padding[1::2]:
        return None
    return stride, padding[::2], dilation, False, (0,) * len(stride), groups


FAMILY = Family(
    name="conv",
    formula="y[n,o,p] = b[o] + Σ_c Σ_k W[o,c,k] x[n, c, s·p + d·k − pad],  c in the group of o",
    source="LeCun et al. 1989; dilated: Yu & Koltun 2016; grouped: Krizhevsky et al. 2012; depthwise: Sifre 2014",
    schema="(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "SymInt groups, str padding_mode) -> Tensor",
    tensors=tensors,
    numbers=numbers,
    settings=(
        Setting(
            "standard",
            "표준 합성곱",
            "every output channel meets every input channel at each tap",
            _at,
            lambda p: p.groups == 1 and not _is_pointwise(p) and not _is_dilated(p),
            aliases=("dense", "regular", "vanilla"),
        ),
        Setting(
            "dilated",
            "팽창 합성곱",
            "the taps stand d apart: a wider field at the same cost",
            _dilated,
            _is_dilated,
            aliases=("atrous", "à trous"),
            equals="standard with a kernel of span d(k-1)+1 that is zero between the taps",
        ),
        Setting(
            "grouped",
            "그룹 합성곱",
            "channels meet only inside their group",
            lambda position: _at(position, groups=position.groups),
            lambda p: p.groups > 1 and not is_depthwise(p),
            _grouped_nearest,
            aliases=("group",),
            equals="standard with a block-diagonal weight",
        ),
        Setting(
            "depthwise",
            "깊이별 합성곱",
            "each channel meets filters of its own; nothing is summed over channels",
            lambda position: _at(position, groups=position.in_channels),
            is_depthwise,
            _depthwise_nearest,
            aliases=("channelwise",),
            equals="grouped with one input channel a group",
        ),
        Setting(
            "pointwise",
            "점별 합성곱",
            "a kernel of one tap: all channels of one position meet",
            lambda position: _at(position, kernel_size=1, padding=0),
            _is_pointwise,
            aliases=("1x1", "network in network"),
            equals="a linear layer applied at each position",
        ),
    ),
    kernels=(
        Kernel(
            "native",
            "depthwise, grouped and pointwise, on kernels of our own.",
            module="cpu",
            refuse=_native_refuses,
            overrideable=_overrideable,
            bind="packed_bound",
            leaves=broad_groups,
        ),
        Kernel(
            "channels_last",
            "ATen's convolution of a copy in channels last, where float32 inputs lie in order with 29 columns or more.",
            refuse=_channels_last_refuses,
            bind="channels_last_bound",
        ),
        Kernel(
            "image",
            "ATen's convolution; (N, L, C) storage is convolved as an image of one row, in channels last.",
            refuse=_image_refuses,
            bind="image_bound",
        ),
        Kernel("direct", "ATen's convolution as it lies.", refuse=needs_even_zeros, bind="direct_bound"),
        Kernel("padded", "the input padded first, then ATen's convolution without padding."),
    ),
    cost=cost,
    cases=CASES,
    benchmarks=BENCHMARKS,
    rewrites=True,
    layers=(
        "CausalConv1d",
        "Conv1d",
        "Conv2d",
        "Conv3d",
        "DepthwiseConv1d",
        "DepthwiseConv2d",
        "DepthwiseConv3d",
        "Linear",
        "PointwiseConv1d",
        "PointwiseConv2d",
        "PointwiseConv3d",
    ),
    functions=("conv1d", "conv2d", "conv3d"),
    outside=OUTSIDE,
)
