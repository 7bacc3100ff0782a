# SPDX-License-Identifier: Apache-2.0
"""Layers of the inverted residual: a depthwise separable convolution of more channels than stand before and behind."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from omniconv.core.follow import Activation, Norm
from omniconv.core.numbers import boolean, integer
from omniconv.ops.conv.layer import PointwiseConv1d, PointwiseConv2d, PointwiseConv3d

from .block import DepthwiseSeparableConv1d, DepthwiseSeparableConv2d, DepthwiseSeparableConv3d
from .followed import Inverted, inverted

POINTWISE = {1: PointwiseConv1d, 2: PointwiseConv2d, 3: PointwiseConv3d}
SEPARABLE = {1: DepthwiseSeparableConv1d, 2: DepthwiseSeparableConv2d, 3: DepthwiseSeparableConv3d}


class _InvertedResidual(nn.Module):
    """Pointwise to more channels, depthwise among them, pointwise to fewer, and the input added to the output.

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
        residual: whether the input is added; None adds it where O is C and every stride is 1, and asks for a padding
            that keeps the size.

    In inference on a CPU all three convolutions with batch norms in ``eval``, the activations ReLU, ReLU6, SiLU, GELU
    and hard swish and the input that is added are computed in one call, box by box where that is less work than what
    two boxes reach costs: what is wide then stays in the cache.
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
    maker: ClassVar[str] = "from_parts"

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
            more: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
            self.expansion = POINTWISE[self.dim](in_channels, hidden, **more, norm=norm, activation=activation)
        self.separable = SEPARABLE[self.dim](
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
        self._inverted: tuple[Any, Any, Inverted | None] = (None, None, None)

    @classmethod
    def from_parts(cls, expansion: nn.Module | None, separable: nn.Module, residual: bool = False) -> Any:
        """A block of two layers, a :class:`PointwiseConv2d` (or None) and a :class:`DepthwiseSeparableConv2d`.

        Raises:
            ValueError: a ``residual`` where the shapes differ.
        """
        block = cls.__new__(cls)
        nn.Module.__init__(block)
        block.expansion, block.separable = expansion, separable  # type: ignore[assignment]
        block.residual, block._inverted = boolean("residual", residual), (None, None, None)  # noqa: SLF001
        if residual:
            block._check_same((separable if expansion is None else expansion).in_channels)  # type: ignore[arg-type]  # noqa: SLF001
        return block

    def arguments(self) -> dict[str, Any]:
        """What ``from_parts`` is called with for a block like this one."""
        return {"expansion": self.expansion, "separable": self.separable, "residual": self.residual}

    def seal(self) -> None:
        """Take it that nobody changes the weights past torch's count, so that packed ones need not be compared."""
        self._inverted = (None, None, None)

    def _check_same(self, in_channels: int) -> None:
        problem = self.separable.problem
        if in_channels != problem.out_channels:
            raise ValueError(
                f"`residual` (=True) adds the input to the output: `out_channels` (={problem.out_channels}) must be "
                f"{in_channels}; use residual=False."
            )
        if set(problem.stride) != {1}:
            raise ValueError(f"`residual` (=True) needs a `stride` (={problem.stride}) of 1; use residual=False.")
        if problem.fixed_pads and any(sum(pair) != s - 1 for pair, s in zip(problem.pads(), problem.span, strict=True)):
            raise ValueError(
                f"`padding` (={self.separable.padding!r}) must keep the size where the input is added; use "
                "padding='same' or residual=False."
            )

    def _at_once(self) -> Inverted | None:
        """What computes both parts in one call, if anything does; found anew where one of them was replaced."""
        expansion, block, found = self._inverted
        if expansion is not self.expansion or block is not self.separable:
            expansion, block, found = self.expansion, self.separable, None
            if type(expansion) is POINTWISE[self.dim] and type(block) is SEPARABLE[self.dim]:
                found = inverted(expansion.problem, block._followed)  # noqa: SLF001  # of its own family
            self._inverted = (expansion, block, found)
        return found

    def forward(self, input: Tensor) -> Tensor:
        residual = input if self.residual else None
        if not is_dynamo_compiling() and (at_once := self._at_once()) is not None:
            output = at_once(self.expansion, self.separable, input, residual)
            if output is not None:
                return output
        expanded = input if self.expansion is None else self.expansion(input)
        return self.separable(expanded, residual)

    def extra_repr(self) -> str:
        return f"residual={self.residual}"


def _expanded(expansion: Any, channels: int) -> int:
    if isinstance(expansion, bool) or not isinstance(expansion, Real):
        raise TypeError(f"`expansion` (={expansion!r}) must be a number, not {type(expansion).__name__}; use 6.")
    if not math.isfinite(expansion) or round(float(expansion) * channels) < 1:
        least = 1 / channels
        raise ValueError(
            f"`expansion` (={expansion}) must leave a channel of {channels} at least; use {least:.3g} or more."
        )
    return round(float(expansion) * channels)


class InvertedResidual1d(_InvertedResidual):  # noqa: D101  # as its base
    __doc__ = (_InvertedResidual.__doc__ or "").replace("2d", "1d").replace("56, 56", "56")
    dim = 1


class InvertedResidual2d(_InvertedResidual):  # noqa: D101  # as its base
    __doc__ = _InvertedResidual.__doc__
    dim = 2


class InvertedResidual3d(_InvertedResidual):  # noqa: D101  # as its base
    __doc__ = (_InvertedResidual.__doc__ or "").replace("2d", "3d").replace("56, 56", "8, 8, 8")
    dim = 3


INVERTED = {1: InvertedResidual1d, 2: InvertedResidual2d, 3: InvertedResidual3d}
