# SPDX-License-Identifier: Apache-2.0
"""Layers and functions of blur pooling."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan


def _problem(dim: int, channels: int, kernel_size: Any, stride: Any, padding: Any) -> ConvProblem:
    return ConvProblem.of("blur", dim, channels, channels, kernel_size, stride, padding, groups=channels)


class _BlurPool(nn.Module):
    """Blur, then keep every s-th position.

    y[n,c,p] = Σ_k b_k x[n, c, s·p + d·k − pad]. For a stride that should not alias.

    Args:
        channels: C.
        kernel_size, stride, padding: as :class:`omniconv.nn.Conv2d`.

    Shape:
        input (n, c, *i); output (n, c, *p).

    Raises:
        TypeError, ValueError: as :class:`omniconv.nn.Conv2d`.

    Source:
        Zhang, 2019.

    Example:
        >>> BlurPool2d(3)(torch.ones(1, 3, 8, 8)).shape
        torch.Size([1, 3, 4, 4])
    """

    dim: ClassVar[int]

    def __init__(self, channels: int, kernel_size: Any = 3, stride: Any = 2, padding: Any = 1) -> None:
        super().__init__()
        self.plan = Plan(_problem(self.dim, channels, kernel_size, stride, padding))

    def forward(self, input: Tensor) -> Tensor:
        return self.plan(input)


class BlurPool1d(_BlurPool):
    __doc__ = _BlurPool.__doc__
    dim = 1


class BlurPool2d(_BlurPool):
    __doc__ = _BlurPool.__doc__
    dim = 2


class BlurPool3d(_BlurPool):
    __doc__ = _BlurPool.__doc__
    dim = 3


_plan = planned(_problem)


def blur_pool2d(input: Tensor, kernel_size: Any = 3, stride: Any = 2, padding: Any = 1) -> Tensor:
    """Blur ``input`` (n, c, h, w) and keep every s-th position; see :class:`BlurPool2d`."""
    if not isinstance(input, Tensor):
        raise TypeError(f"`input` (={type(input).__name__}) must be a torch.Tensor.")
    channels = input.shape[-3] if input.dim() > 2 else 1  # of another number of axes: the plan says what is wrong
    return _plan(2, channels, kernel_size, stride, padding)(input)


def from_problem(problem: ConvProblem, device: Any = None, dtype: Any = None) -> nn.Module:
    """The layer that computes ``problem``; it holds no parameters, so device and dtype are its input's."""
    layer = (BlurPool1d, BlurPool2d, BlurPool3d)[problem.dim - 1](problem.in_channels)
    layer.plan = Plan(problem)
    return layer
