# SPDX-License-Identifier: Apache-2.0
"""Layers of the inverted residual: a depthwise separable convolution of more channels than stand before and behind."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from omniconv.core.follow import Activation, Norm
from omniconv.core.numbers import boolean, integer
from omniconv.ops.conv import layer as pointwise

from . import block as separable
from .followed import inverted


class _InvertedResidual(nn.Module):
    """Pointwise to more channels, depthwise among them, pointwise to fewer, and the input added where shapes allow it.

    y = x + P(D(E x)), E: C → e·C channels with a norm and an activation behind it, D: taps within each of them, with a
    norm and an activation, P: e·C → O with a norm. P·C·e·(C + K + O) MACs at a stride of 1. The block of MobileNetV2,
    of EfficientNet without its excitation, and of most networks for telephones: the tensors between blocks are narrow,
    and what is wide stands inside. ``expansion`` of 1 leaves E out, as MobileNetV2's first block does.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, padding, dilation, padding_mode: of the depthwise part, as :class:`Conv2d`.
        bias: whether each of the three ends with a number per channel; leave it out before batch norms.
        expansion: e; round(e·C) channels stand inside.
        norm: after each part: what makes a module from a number of channels, such as ``nn.BatchNorm2d``.
        activation: after E and D: a module, its class (``nn.ReLU6``), or a function of a tensor.
        residual: whether the input is added; None adds it where O is C and every stride is 1.

    In inference on a CPU all three convolutions with batch norms in ``eval``, the activations ReLU, ReLU6, SiLU, GELU
    and hard swish and the input that is added are computed in one call, box by box: what is wide stays in the cache.
    ``expansion`` and ``separable`` are the parts: a :class:`PointwiseConv2d` or None, a
    :class:`DepthwiseSeparableConv2d`, of as many dimensions.

    Shape:
        input (n, c, *spatial) or (c, *spatial); output as :class:`Conv2d`.

    Raises:
        TypeError, ValueError: as the two; a norm that makes no module; a ``residual`` where the shapes differ.

    Source:
        Sandler et al., MobileNetV2, 2018.

    Example:
        >>> block = InvertedResidual2d(
        ...     24, 24, 3, padding=1, bias=False, expansion=6, norm=nn.BatchNorm2d, activation=nn.ReLU6
        ... )
        >>> block(torch.randn(1, 24, 56, 56)).shape
        torch.Size([1, 24, 56, 56])
    """

    dim: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        expansion: float = 6,
        norm: Norm | None = None,
        activation: Activation | None = None,
        residual: bool | None = None,
    ) -> None:
        super().__init__()
        if isinstance(norm, nn.Module):
            raise TypeError(f"`norm` (={norm!r}) must make a module for each part; use nn.BatchNorm{self.dim}d.")
        hidden = _expanded(expansion, integer("in_channels", in_channels, 1))
        self.expansion = None
        if expansion != 1:
            layer = getattr(pointwise, f"PointwiseConv{self.dim}d")
            more: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
            self.expansion = layer(in_channels, hidden, **more, norm=norm, activation=activation)
        self.separable = getattr(separable, f"DepthwiseSeparableConv{self.dim}d")(
            hidden,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            bias,
            padding_mode,
            device,
            dtype,
            depthwise_bias=bias,
            mid_norm=norm,
            mid_activation=activation,
            norm=norm,
        )
        problem = self.separable.problem
        same = in_channels == out_channels and set(problem.stride) == {1}
        self.residual = same if residual is None else boolean("residual", residual)
        if self.residual:
            self._check_same(in_channels)
        self._inverted = None if self.expansion is None else inverted(self.expansion.problem, problem)

    def _check_same(self, in_channels: int) -> None:
        problem = self.separable.problem
        if in_channels != problem.out_channels:
            raise ValueError(
                f"`residual` (=True) adds the input to the output: `out_channels` (={problem.out_channels}) must be "
                f"{in_channels}; use residual=False."
            )
        if set(problem.stride) != {1}:
            raise ValueError(f"`residual` (=True) needs a `stride` (={problem.stride}) of 1; use residual=False.")
        long = tuple(2 * s for s in problem.span)
        kept = problem.out_size_of(long)
        if kept != long:
            raise ValueError(
                f"`padding` (={self.separable.padding!r}) must keep the size where the input is added, and {long} "
                f"becomes {kept}; use padding='same' or residual=False."
            )

    def forward(self, input: Tensor) -> Tensor:
        residual = input if self.residual else None
        if self._inverted is not None:
            output = self._inverted(self.expansion, self.separable, input, residual)
            if output is not None:
                return output
        expanded = input if self.expansion is None else self.expansion(input)
        return self.separable(expanded, residual)

    def extra_repr(self) -> str:
        return f"residual={self.residual}"


def _expanded(expansion: Any, channels: int) -> int:
    if isinstance(expansion, bool) or not isinstance(expansion, int | float):
        raise TypeError(f"`expansion` (={expansion!r}) must be a number, not {type(expansion).__name__}.")
    if not math.isfinite(expansion) or round(expansion * channels) < 1:
        raise ValueError(f"`expansion` (={expansion}) must leave a channel of {channels} at least; use 6.")
    return round(expansion * channels)


class InvertedResidual1d(_InvertedResidual):  # noqa: D101  # as its base
    __doc__ = (_InvertedResidual.__doc__ or "").replace("2d", "1d").replace("56, 56", "56")
    dim = 1


class InvertedResidual2d(_InvertedResidual):  # noqa: D101  # as its base
    __doc__ = _InvertedResidual.__doc__
    dim = 2


class InvertedResidual3d(_InvertedResidual):  # noqa: D101  # as its base
    __doc__ = (_InvertedResidual.__doc__ or "").replace("2d", "3d").replace("56, 56", "8, 8, 8")
    dim = 3
