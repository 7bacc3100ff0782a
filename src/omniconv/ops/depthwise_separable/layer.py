# SPDX-License-Identifier: Apache-2.0
"""Layers and functions of the depthwise separable convolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from omniconv.core.check import weight_of
from omniconv.core.layer import PlannedLayer
from omniconv.core.numbers import integer
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem

from .block import DepthwiseSeparableConv1d, DepthwiseSeparableConv2d, DepthwiseSeparableConv3d
from .inverted import InvertedResidual1d, InvertedResidual2d, InvertedResidual3d

__all__ = [
    "DepthwiseSeparableConv1d",
    "DepthwiseSeparableConv2d",
    "DepthwiseSeparableConv3d",
    "InvertedResidual1d",
    "InvertedResidual2d",
    "InvertedResidual3d",
    "depthwise_separable_conv1d",
    "depthwise_separable_conv2d",
    "depthwise_separable_conv3d",
    "from_problem",
]


def from_problem(problem: ConvProblem, device: Any = None, dtype: Any = None) -> PlannedLayer:
    """The layer that computes ``problem``, with random weights and nothing between its parts."""
    return (DepthwiseSeparableConv1d, DepthwiseSeparableConv2d, DepthwiseSeparableConv3d)[problem.dim - 1](
        problem.in_channels,
        problem.out_channels,
        problem.kernel_size,
        problem.stride,
        problem.padding,
        problem.dilation,
        problem.bias,
        problem.padding_mode,
        device,
        dtype,
        multiplier=problem.number("multiplier"),
        depthwise_bias=bool(problem["depthwise_bias"]),
    )


@planned
def _plan(
    channels: tuple[int, int, int],
    kernel_size: tuple[int, ...],
    biases: tuple[bool, bool],
    stride: Any,
    padding: Any,
    dilation: Any,
    mode: str,
) -> ConvProblem:
    in_channels, between, out_channels = integer("in_channels", channels[0], 1), *channels[1:]
    if between % in_channels:
        raise ValueError(
            f"`depthwise_weight` filters (={between}) must be a multiple of the input's channels (={in_channels}); use "
            f"{max(round(between / in_channels), 1) * in_channels}."
        )
    return ConvProblem.of(
        "depthwise_separable",
        len(kernel_size),
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding,
        dilation,
        bias=biases[0],
        padding_mode=mode,
        multiplier=between // in_channels,
        depthwise_bias=int(biases[1]),
    )


def _separable(
    dim: int,
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None,
    depthwise_bias: Tensor | None,
    *rest: Any,
) -> Tensor:
    taps = weight_of("depthwise_weight", depthwise_weight, dim + 2, "(c·m, 1, *k)")
    across = weight_of("pointwise_weight", pointwise_weight, dim + 2, "(o, c·m, 1, …)")
    if not isinstance(input, Tensor):
        raise TypeError(f"`input` (={type(input).__name__}) must be a torch.Tensor.")
    if input.dim() not in (dim + 1, dim + 2):
        raise ValueError(
            f"`input` has {input.dim()} dimensions and must have {dim + 2} (n, c, {dim} spatial) or {dim + 1} without "
            f"a batch; its shape is {tuple(input.shape)}."
        )
    channels = (input.shape[-dim - 1], taps[0], across[0])
    plan = _plan(channels, taps[2:], (bias is not None, depthwise_bias is not None), *rest)
    return plan(input, depthwise_weight, pointwise_weight, bias, depthwise_bias)


def depthwise_separable_conv1d(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    *,
    depthwise_bias: Tensor | None = None,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve each channel of ``input`` (n, c, i) by itself, then the channels of each position.

    Args:
        input: (n, c, i) or (c, i).
        depthwise_weight: (c·m, 1, k); filters q = c·m + j read channel c.
        pointwise_weight: (o, c·m, 1).
        bias: (o,) or None; added at the end.
        stride, padding, dilation, padding_mode: of the depthwise part, as :class:`omniconv.nn.Conv2d`.
        depthwise_bias: (c·m,) or None; added between the two.

    Returns:
        (n, o, p) or (o, p).

    Raises:
        TypeError, ValueError: as :class:`omniconv.nn.DepthwiseSeparableConv2d`.
    """
    rest = (stride, padding, dilation, padding_mode)
    return _separable(1, input, depthwise_weight, pointwise_weight, bias, depthwise_bias, *rest)


def depthwise_separable_conv2d(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    *,
    depthwise_bias: Tensor | None = None,
    padding_mode: str = "zeros",
) -> Tensor:
    """Depthwise, then pointwise on ``input`` (n, c, h, w); see :func:`depthwise_separable_conv1d`."""
    rest = (stride, padding, dilation, padding_mode)
    return _separable(2, input, depthwise_weight, pointwise_weight, bias, depthwise_bias, *rest)


def depthwise_separable_conv3d(
    input: Tensor,
    depthwise_weight: Tensor,
    pointwise_weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    *,
    depthwise_bias: Tensor | None = None,
    padding_mode: str = "zeros",
) -> Tensor:
    """Depthwise, then pointwise on ``input`` (n, c, d, h, w); see :func:`depthwise_separable_conv1d`."""
    rest = (stride, padding, dilation, padding_mode)
    return _separable(3, input, depthwise_weight, pointwise_weight, bias, depthwise_bias, *rest)
