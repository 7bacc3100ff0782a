# SPDX-License-Identifier: Apache-2.0
"""The deformable convolution that predicts its own offsets and masks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from omniconv.core.layer import ConvLayer
from omniconv.core.numbers import boolean, integer
from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.layer import Conv1d, Conv2d, Conv3d

if TYPE_CHECKING:
    from typing_extensions import Self


class _DeformableConv(ConvLayer):
    """Deformable convolution that predicts its own offsets, and starts as the ordinary convolution that it replaces.

    The formula is that of :class:`DeformConv2d`; Δ, and with ``mask`` also m = ``mask_scale`` · σ(·), come from an
    ordinary convolution ``conv_offset`` of the same geometry, whose weights start at 0. Then every offset is 0, and
    every m is ``mask_scale`` / 2: 1/2 as published, where the first output is half the ordinary convolution's, or
    1 with ``mask_scale=2``, where it is equal. Under autocast ``conv_offset`` stays in float32, because an offset
    rounded to eight bits misses its position. In place of ``Conv{1,2,3}d``; loads the state dicts of mmcv's
    ``DeformConv2dPack`` and ``ModulatedDeformConv2dPack``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as :class:`Conv2d`.
        padding_mode: as :class:`DeformConv2d`, for ``conv_offset`` too.
        offset_groups: groups of channels that share their offsets, independent of ``groups``.
        mask: whether each tap is also weighted (DCNv2).
        mask_scale: the largest weight of a tap.
        head_bias: whether ``conv_offset`` has a bias.

    Shape:
        input (n, c, *i) or (c, *i); output (n, o, *p) or (o, *p), as the ordinary convolution; ``conv_offset``
        predicts q·k·dim channels of offsets, then q·k of masks.

    Raises:
        TypeError, ValueError: as :class:`Conv2d`.
        ValueError: offset groups that do not divide the channels, a mask scale that is not above 0.

    Source:
        Dai et al., 2017; with a mask: Zhu et al., Deformable ConvNets v2, 2019.

    Example:
        >>> layer = DeformableConv2d(16, 32, 3, padding=1, mask=True)
        >>> layer(torch.randn(1, 16, 14, 14)).shape
        torch.Size([1, 32, 14, 14])
    """

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
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        offset_groups: int = 1,
        mask: bool = False,
        mask_scale: float = 1.0,
        head_bias: bool = True,
    ) -> None:
        if isinstance(mask_scale, bool) or not isinstance(mask_scale, (int, float)):
            raise TypeError(f"`mask_scale` (={mask_scale!r}) must be a number; use 1.0 or 2.0.")
        if not 0 < mask_scale < math.inf:
            raise ValueError(
                f"`mask_scale` (={mask_scale}) must be above 0; use 1.0 as published, or 2.0 to start at 1."
            )
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
            mask=int(boolean("mask", mask)),
            offset_groups=integer("offset_groups", offset_groups, 1),
        )
        shape = (problem.out_channels, problem.in_channels // problem.groups, *problem.kernel_size)
        super().__init__(problem, shape, padding, device, dtype)
        self.mask_scale = mask_scale
        self.conv_offset = (Conv1d, Conv2d, Conv3d)[self.dim - 1](
            in_channels,
            offset_groups * math.prod(self.kernel_size) * (self.dim + mask),
            kernel_size,
            stride,
            padding,
            dilation,
            bias=boolean("head_bias", head_bias),
            padding_mode=padding_mode,
            device=device,
            dtype=dtype,
        )
        self.reset_head()

    @property
    def offset_groups(self) -> int:
        """Groups of channels that share their offsets."""
        return self.problem.number("offset_groups")

    @property
    def mask(self) -> bool:
        """Whether each tap is weighted."""
        return bool(self.problem["mask"])

    def reset_parameters(self) -> None:
        """Draw weight and bias as torch does for its convolutions, and let every offset start at 0."""
        super().reset_parameters()
        if hasattr(self, "conv_offset"):
            self.reset_head()

    @classmethod
    def from_torch(cls, module: nn.Module, **changes: Any) -> Self:
        """As :meth:`ConvLayer.from_torch`, with a head of its own that starts at 0."""
        layer = super().from_torch(module, **changes)
        layer.conv_offset.to(dtype=layer.weight.dtype).to_empty(device=layer.weight.device)
        layer.reset_head()
        return layer

    def reset_head(self) -> None:
        """Set ``conv_offset`` to 0: every offset is 0, and every mask ``mask_scale`` / 2, whatever the input."""
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor) -> Tensor:
        predicted = self._predict(input)
        if not self.mask:
            return self.plan(input, predicted, self.weight, self.bias, None)
        taps = predicted.shape[-self.dim - 1] // (self.dim + 1)
        # In order, because parts of channels that lie side by side would be read, and copied, in short pieces.
        offset, mask = predicted.contiguous().split_with_sizes([taps * self.dim, taps], -self.dim - 1)
        mask = torch.sigmoid(mask)
        if self.mask_scale != 1:
            mask = mask * self.mask_scale
        return self.plan(input, offset, self.weight, self.bias, mask)

    def _predict(self, input: Tensor) -> Tensor:
        device = input.device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return self.conv_offset(input)
        with torch.autocast(device, enabled=False):
            return self.conv_offset(input.to(self.conv_offset.weight.dtype))

    def extra_repr(self) -> str:
        parts = [super().extra_repr()]
        if self.offset_groups != 1:
            parts.append(f"offset_groups={self.offset_groups}")
        if self.mask:
            parts.append(f"mask=True, mask_scale={self.mask_scale}")
        return ", ".join(parts)

    @staticmethod
    def upgraded(state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The ``state_dict`` of a whole model, where the head of ``conv2`` is called ``conv2_offset``, in our names.

        mmcv named the head so in its first versions, and detectron2 does. A module that is loading cannot rename keys
        outside its own prefix, so this comes before ``load_state_dict``.
        """
        renamed = {}
        for key, value in state_dict.items():
            stem, mark, leaf = key.rpartition("_offset.")
            is_head = mark and leaf in {"weight", "bias"} and f"{stem}.weight" in state_dict
            renamed[f"{stem}.conv_offset.{leaf}" if is_head else key] = value
        return renamed


class DeformableConv1d(_DeformableConv):  # noqa: D101  # as its base
    __doc__ = _DeformableConv.__doc__
    dim = 1


class DeformableConv2d(_DeformableConv):  # noqa: D101  # as its base
    __doc__ = _DeformableConv.__doc__
    dim = 2


class DeformableConv3d(_DeformableConv):  # noqa: D101  # as its base
    __doc__ = _DeformableConv.__doc__
    dim = 3
