# SPDX-License-Identifier: Apache-2.0
"""Functions of the dynamic convolution, whose kernels are given for each position."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from omniconv.core.check import weight_of
from omniconv.core.numbers import boolean, integer, one_of
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan

from .cost import CONTEXTS


def problem_of(
    dim: int,
    channels: Any,
    heads: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    bias: Any,
    padding_mode: Any,
    softmax: Any,
    renorm_padding: Any,
    context: Any,
) -> ConvProblem:
    """The problem of kernels that are given."""
    c = integer("channels", channels, 1)
    special: dict[str, Any] = {"heads": integer("heads", heads, 1), "softmax": int(boolean("softmax", softmax))}
    if boolean("renorm_padding", renorm_padding):
        special |= {"renorm_padding": 1}
    if one_of("context", context, CONTEXTS) != "position":
        special |= {"context": context}
    return ConvProblem.of(
        "dynamic",
        dim,
        c,
        c,
        kernel_size,
        stride,
        padding,
        dilation,
        c,
        bias=bias,
        padding_mode=padding_mode,
        **special,
    )


_plan = planned(problem_of)
_LAYOUTS = {1: "(n, h, k, p)", 2: "(n, h, *k, *p)", 3: "(n, h, *k, *p)"}


def _plan_for(dim: int, input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Plan:
    if not isinstance(input, Tensor):
        raise TypeError(f"`input` (={type(input).__name__}) must be a torch.Tensor.")
    unbatched = input.dim() == dim + 1
    shape = weight_of(
        "weight", weight, 2 * dim + 2 - unbatched, _LAYOUTS[dim].replace("n, ", "" if unbatched else "n, ")
    )
    heads, *kernel_size = shape[-1 - 2 * dim : -dim]
    channels = input.shape[-1 - dim] if input.dim() > dim else heads
    stride, padding, dilation, *words = rest
    return _plan(dim, channels, heads, tuple(kernel_size), stride, padding, dilation, bias is not None, *words)


def dynamic_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Any = "same",
    softmax: bool = True,
    stride: int | tuple[int, ...] = 1,
    dilation: int | tuple[int, ...] = 1,
    padding_mode: str = "zeros",
    renorm_padding: bool = False,
    context: str = "position",
) -> Tensor:
    """Convolve each channel of ``input`` with a kernel of its head that is another at each position.

    Args:
        input: (n, c, i) or (c, i).
        weight: (n, h, k, p) or (h, k, p): the kernel of each head at each of the p output positions; (n, h, k, 1) with
            ``context="sequence"``: one for them all.
        bias: (c,) or None.
        padding, softmax, stride, dilation, padding_mode, renorm_padding, context: as
            :class:`omniconv.nn.DynamicConv1d`.

    Returns:
        (n, c, p) or (c, p).

    Raises:
        TypeError, ValueError: as :class:`omniconv.nn.DynamicConv1d`.
    """
    rest = (stride, padding, dilation, padding_mode, softmax, renorm_padding, context)
    return _plan_for(1, input, weight, bias, *rest)(input, weight, bias)


def dynamic_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Any = "same",
    softmax: bool = True,
    stride: int | tuple[int, ...] = 1,
    dilation: int | tuple[int, ...] = 1,
    padding_mode: str = "zeros",
    renorm_padding: bool = False,
    context: str = "position",
) -> Tensor:
    """Convolve ``input`` (n, c, y, x) with ``weight`` (n, h, ky, kx, py, px); see :func:`dynamic_conv1d`.

    Each axis of the kernel and of the output has an axis of its own in ``weight``: a predicted (n, h·k·k, py, px) is
    ``.unflatten(1, (h, k, k))`` of it. With ``softmax=False`` this is involution.
    """
    rest = (stride, padding, dilation, padding_mode, softmax, renorm_padding, context)
    return _plan_for(2, input, weight, bias, *rest)(input, weight, bias)


def dynamic_conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Any = "same",
    softmax: bool = True,
    stride: int | tuple[int, ...] = 1,
    dilation: int | tuple[int, ...] = 1,
    padding_mode: str = "zeros",
    renorm_padding: bool = False,
    context: str = "position",
) -> Tensor:
    """Convolve ``input`` (n, c, z, y, x) with ``weight`` (n, h, kz, ky, kx, pz, py, px); see :func:`dynamic_conv1d`."""
    rest = (stride, padding, dilation, padding_mode, softmax, renorm_padding, context)
    return _plan_for(3, input, weight, bias, *rest)(input, weight, bias)
