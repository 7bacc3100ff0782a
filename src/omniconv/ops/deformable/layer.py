# SPDX-License-Identifier: Apache-2.0
"""Layers and functions of the deformable convolution."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from torch import Tensor

from omniconv.core.check import weight_of
from omniconv.core.layer import ConvLayer
from omniconv.core.numbers import must_divide
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan

from .headed import DeformableConv1d, DeformableConv2d, DeformableConv3d

__all__ = [
    "DeformConv1d",
    "DeformConv2d",
    "DeformConv3d",
    "DeformableConv1d",
    "DeformableConv2d",
    "DeformableConv3d",
    "deform_conv1d",
    "deform_conv2d",
    "deform_conv3d",
    "from_problem",
]


class _DeformConv(ConvLayer):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        problem = ConvProblem.of(
            "deformable",
            self.dim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias=bias,
            padding_mode=padding_mode,
            head=0,
            mask=0,
            offset_groups=1,
        )
        shape = (problem.out_channels, problem.in_channels // problem.groups, *problem.kernel_size)
        super().__init__(problem, shape, padding, device, dtype)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        shared = _offset_groups(offset, self.dim, math.prod(self.kernel_size), self.in_channels)
        plan = _plan_with(self.problem, shared, mask is not None)
        return plan(input, offset, self.weight, self.bias, mask)


class DeformConv1d(_DeformConv):
    """Deformable convolution over a sequence, at offsets that are given; arguments as :class:`DeformConv2d`.

    y[n,o,p] = b[o] + Σ_c Σ_k W[o,c,k] m[n,k,p] x[n, c, s·p + d·k − pad + Δ[n,k,p]].

    Shape:
        input (n, c, i) or (c, i); offset (n, q·k, p), one number a tap; mask (n, q·k, p); output (n, o, p).

    Raises:
        TypeError, ValueError: as :class:`DeformConv2d`.

    Source:
        Dai et al., 2017, on one axis.

    Example:
        >>> layer = DeformConv1d(4, 8, kernel_size=3, padding=1)
        >>> layer(torch.randn(2, 4, 20), offset=torch.zeros(2, 3, 20)).shape
        torch.Size([2, 8, 20])
    """

    dim = 1


class DeformConv2d(_DeformConv):
    """Deformable convolution at offsets that are given: each tap at each position reads where its offset points.

    y[n,o,p] = b[o] + Σ_c Σ_k W[o,c,k] m[n,k,p] x[n, c, s·p + d·k − pad + Δ[n,k,p]], where x between positions is
    bilinear and Δ and m are those of the offset group of c. For objects whose shape and size vary; it reads memory out
    of order, so it takes several times as long as its MACs say. The layer that predicts its own offsets is
    :class:`DeformableConv2d`. Arguments, attributes and state dict are those of ``torchvision.ops.DeformConv2d``.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as :class:`Conv2d`.
        padding: as :class:`Conv2d`.
        padding_mode: what the padding holds, as :class:`Conv2d`; beyond the padding an offset reads 0 in every mode.

    Shape:
        input (n, c, h, w) or (c, h, w); offset (n, 2·q·k, h', w') with q offset groups, found from its channels: for
        each group, for each tap row by row, first y, then x; mask (n, q·k, h', w') or None; output (n, o, h', w').

    Raises:
        TypeError: a tensor that is not floating, or of another type than the input.
        ValueError: offset channels that are not a multiple of 2·k, offset groups that do not divide the channels, and
            as :class:`Conv2d`.

    Source:
        Dai et al., Deformable Convolutional Networks, 2017; with a mask: Zhu et al., 2019.

    Example:
        >>> layer = DeformConv2d(4, 8, kernel_size=3, padding=1)
        >>> x, offset = torch.randn(1, 4, 9, 9), torch.randn(1, 2 * 9, 9, 9)
        >>> layer(x, offset, mask=torch.rand(1, 9, 9, 9)).shape
        torch.Size([1, 8, 9, 9])
    """

    dim = 2


class DeformConv3d(_DeformConv):
    """Deformable convolution over a volume, at offsets that are given; arguments as :class:`DeformConv2d`.

    The formula is that of :class:`DeformConv2d` with three axes; samples are trilinear.

    Shape:
        input (n, c, d, h, w) or (c, d, h, w); offset (n, 3·q·k, d', h', w'), for each tap z, then y, then x; mask
        (n, q·k, d', h', w') or None; output (n, o, d', h', w').

    Raises:
        TypeError, ValueError: as :class:`DeformConv2d`.

    Source:
        Ying et al., Deformable 3D Convolution, 2020.

    Example:
        >>> layer = DeformConv3d(2, 4, kernel_size=(1, 3, 3), padding=(0, 1, 1))
        >>> layer(torch.randn(1, 2, 3, 6, 6), torch.zeros(1, 3 * 9, 3, 6, 6)).shape
        torch.Size([1, 4, 3, 6, 6])
    """

    dim = 3


def from_problem(problem: ConvProblem, device: Any = None, dtype: Any = None) -> ConvLayer:
    """The layer that computes ``problem``, with random weights: with a head of its own where the problem has one.

    The head has a bias where the problem has one.
    """
    arguments: dict[str, Any] = {
        "in_channels": problem.in_channels,
        "out_channels": problem.out_channels,
        "kernel_size": problem.kernel_size,
        "stride": problem.stride,
        "padding": problem.padding,
        "dilation": problem.dilation,
        "groups": problem.groups,
        "bias": problem.bias,
        "padding_mode": problem.padding_mode,
        "device": device,
        "dtype": dtype,
    }
    if not problem["head"]:
        return (DeformConv1d, DeformConv2d, DeformConv3d)[problem.dim - 1](**arguments)
    return (DeformableConv1d, DeformableConv2d, DeformableConv3d)[problem.dim - 1](
        **arguments,
        offset_groups=problem.number("offset_groups"),
        mask=bool(problem["mask"]),
        head_bias=problem.bias,
    )


def _offset_groups(offset: Tensor, dim: int, taps: int, in_channels: int) -> int:
    """How many offset groups the channels of ``offset`` hold.

    Raises:
        TypeError: not a tensor.
        ValueError: channels that are no multiple of ``dim`` numbers a tap, or groups that do not divide the channels.
    """
    each = dim * taps
    channels = _channels("offset", offset, dim)
    if channels % each or not channels:
        nearest = max(round(channels / each), 1) * each
        raise ValueError(
            f"`offset` channels (={channels}) must be a multiple of {each} ({dim} numbers for each of {taps} taps), "
            f"one multiple an offset group; use {nearest}."
        )
    must_divide("offset_groups", channels // each, "in_channels", in_channels)
    return channels // each


def _channels(name: str, tensor: object, dim: int) -> int:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"`{name}` (={type(tensor).__name__}) must be a torch.Tensor.")
    if tensor.dim() not in (dim + 1, dim + 2):
        raise ValueError(
            f"`{name}` has {tensor.dim()} dimensions and must have {dim + 2} (n, c, {dim} axes) or {dim + 1} without a "
            f"batch; its shape is {tuple(tensor.shape)}."
        )
    return tensor.shape[-dim - 1]


@planned
def _plan_with(problem: ConvProblem, offset_groups: int, masked: bool) -> ConvProblem:
    return replace(problem, special=(("head", 0), ("mask", int(masked)), ("offset_groups", offset_groups)))


@planned
def _plan(
    dim: int,
    shape: tuple[int, ...],
    in_channels: int,
    offset_groups: int,
    bias: bool,
    stride: Any,
    padding: Any,
    dilation: Any,
    masked: bool,
    mode: str,
) -> ConvProblem:
    return ConvProblem.of(
        "deformable",
        dim,
        in_channels,
        shape[0],
        shape[2:],
        stride,
        padding,
        dilation,
        in_channels // shape[1],
        bias=bias,
        padding_mode=mode,
        head=0,
        mask=int(masked),
        offset_groups=offset_groups,
    )


def _plan_for(
    dim: int, input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *rest: Any
) -> Plan:
    shape = weight_of("weight", weight, dim + 2, "(o, c/g, *k)")
    channels = _channels("input", input, dim)
    must_divide("weight.shape[1]", shape[1], "in_channels", channels)
    shared = _offset_groups(offset, dim, math.prod(shape[2:]), channels)
    stride, padding, dilation, mode = rest
    return _plan(dim, shape, channels, shared, bias is not None, stride, padding, dilation, mask is not None, mode)


def deform_conv1d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    mask: Tensor | None = None,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve ``input`` (n, c, i) with ``weight`` (o, c/g, k), tap k of output p moved by ``offset``.

    Arguments are those of ``torchvision.ops.deform_conv2d``. Groups are found from the shapes: G from the weight, the
    offset groups q from the offset.

    Args:
        input: (n, c, i) or (c, i).
        offset: (n, q·k, p), or without n.
        weight: (o, c/g, k).
        bias: (o,) or None.
        stride, padding, dilation: as :class:`omniconv.nn.Conv2d`.
        mask: (n, q·k, p), without activation, or None.
        padding_mode: as :class:`omniconv.nn.DeformConv2d`.

    Returns:
        (n, o, p) or (o, p).

    Raises:
        TypeError, ValueError: as :class:`omniconv.nn.DeformConv2d`.
    """
    plan = _plan_for(1, input, offset, weight, bias, mask, stride, padding, dilation, padding_mode)
    return plan(input, offset, weight, bias, mask)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    mask: Tensor | None = None,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve ``input`` (n, c, h, w) at ``offset`` (n, 2·q·k, h', w'), a tap's y, x; see :func:`deform_conv1d`."""
    plan = _plan_for(2, input, offset, weight, bias, mask, stride, padding, dilation, padding_mode)
    return plan(input, offset, weight, bias, mask)


def deform_conv3d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    mask: Tensor | None = None,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve ``input`` (n, c, d, h, w) at ``offset`` (n, 3·q·k, …), a tap's z, y, x; see :func:`deform_conv1d`."""
    plan = _plan_for(3, input, offset, weight, bias, mask, stride, padding, dilation, padding_mode)
    return plan(input, offset, weight, bias, mask)
