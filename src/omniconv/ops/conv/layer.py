# SPDX-License-Identifier: Apache-2.0
"""Layers and functions of the ordinary convolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from omniconv.core.check import weight_of
from omniconv.core.numbers import integer
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from omniconv.core.streaming import Streaming

from .base import Conv
from .linear import Linear
from .pointwise import PointwiseConv1d, PointwiseConv2d, PointwiseConv3d, pointwise_at_once

__all__ = [
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
    "conv1d",
    "conv2d",
    "conv3d",
    "from_problem",
    "pointwise_at_once",
]


class Conv1d(Streaming, Conv):
    """Convolution over a sequence; with ``padding="causal"`` it also runs chunk by chunk.

    y[n,o,p] = b[o] + Σ_c Σ_k W[o,c,k] x[n, c, s·p + d·k − pad]. Arguments, attributes and state dict are those of
    ``torch.nn.Conv1d``; the arguments are explained at :class:`Conv2d`.

    Shape:
        input (n, c, i) or (c, i); output (n, o, p) or (o, p), p = ⌊(i + before + after − d(k−1) − 1)/s⌋ + 1.

    Raises:
        TypeError, ValueError: as :class:`Conv2d`.

    Source:
        LeCun et al., 1989; causal and dilated: van den Oord et al., WaveNet, 2016.

    Example:
        >>> layer = Conv1d(4, 8, kernel_size=3, padding="causal", dilation=2)
        >>> state = layer.initial_state(batch=1)
        >>> first, state = layer.step(torch.randn(1, 4, 10), state)
        >>> second, state = layer.step(torch.randn(1, 4, 1), state)
        >>> first.shape, second.shape
        (torch.Size([1, 8, 10]), torch.Size([1, 8, 1]))
    """

    dim = 1

    def _convolve_window(self, window: Tensor, chunk: Tensor, done: slice) -> Tensor:
        return self.unpadded(window, self.weight, self.bias)


class Conv2d(Conv):
    """Convolution over an image: standard, dilated, grouped, depthwise or pointwise by its numbers.

    y[n,o,p] = b[o] + Σ_c Σ_k W[o,c,k] x[n, c, s·p + d·k − pad], c in the group of o. The default choice wherever every
    channel must meet every other; where that is too dear, see :class:`DepthwiseSeparableConv2d`. Arguments,
    attributes and state dict are those of ``torch.nn.Conv2d``; ``padding`` takes more.

    Args:
        in_channels, out_channels: C and O.
        kernel_size: taps per axis, one number or one per axis.
        stride: step between outputs.
        padding: zeros added to both sides, one number or one per axis; or a pair ``(before, after)`` per axis, as
            ``((top, bottom), (left, right))``; or a rule for all axes or for each: ``"valid"`` none, ``"same"`` torch's
            (stride 1), ``"tf_same"`` TensorFlow's for any stride, ``"same_lower"`` ONNX's, ``"causal"`` (of one axis).
        dilation: step between taps.
        groups: G; channels meet only inside their group. ``groups=in_channels`` is depthwise.
        bias: whether a number per output channel is added.
        padding_mode: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``: what the padding repeats.

    Shape:
        input (n, c, h, w) or (c, h, w); output (n, o, h', w') or (o, h', w'), each axis
        ⌊(i + before + after − d(k−1) − 1)/s⌋ + 1; weight (o, c/g, k, k).

    Raises:
        TypeError: an argument that is not a number, tuple or word as asked; an input that is not a floating tensor.
        ValueError: groups that do not divide the channels, an unknown rule or mode, an input too small for the kernel
            or for the padding mode, or with other channels.

    Source:
        LeCun et al., 1989; dilated: Yu & Koltun, 2016; grouped: Krizhevsky et al., 2012; depthwise: Sifre, 2014.

    Example:
        >>> layer = Conv2d(16, 32, 3, stride=2, padding="tf_same")
        >>> layer(torch.randn(1, 16, 28, 28)).shape
        torch.Size([1, 32, 14, 14])
    """

    dim = 2


class Conv3d(Conv):
    """Convolution over a volume or a clip. Arguments, attributes and state dict are those of ``torch.nn.Conv3d``.

    The formula and the arguments are those of :class:`Conv2d` with three axes; ``padding=("causal", "same", "same")``
    makes a clip causal in time.

    Shape:
        input (n, c, d, h, w) or (c, d, h, w); output (n, o, d', h', w') or (o, d', h', w'); weight (o, c/g, k, k, k).

    Raises:
        TypeError, ValueError: as :class:`Conv2d`.

    Source:
        Ji et al., 2010.

    Example:
        >>> layer = Conv3d(3, 8, (1, 3, 3), padding=(0, 1, 1))
        >>> layer(torch.randn(1, 3, 4, 12, 12)).shape
        torch.Size([1, 8, 4, 12, 12])
    """

    dim = 3


class CausalConv1d(Conv1d):
    """:class:`Conv1d` with ``padding="causal"``: output p sees inputs up to s·p, never later ones.

    d(k−1) zeros stand before the sequence, at any stride; ``initial_state`` and ``step`` run it chunk by chunk, and
    any split of a sequence gives the result of one call. For a strided convolution that waits for s−1 later inputs
    instead, give :class:`Conv1d` the pair ``((d*(k-1)+1-s, s-1),)``.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as :class:`Conv2d`.

    Shape:
        input (n, c, i) or (c, i); output (n, o, ⌈i/s⌉) or (o, ⌈i/s⌉).

    Raises:
        TypeError, ValueError: as :class:`Conv2d`.

    Source:
        van den Oord et al., WaveNet, 2016.

    Example:
        >>> CausalConv1d(4, 4, 7, groups=4)(torch.randn(2, 4, 50)).shape
        torch.Size([2, 4, 50])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, "causal", dilation, groups, bias, "zeros", device, dtype
        )


class _DepthwiseConv(Conv):
    """Each channel meets ``multiplier`` filters of its own; nothing is summed over channels.

    y[n, c·m + j, p] = b + Σ_k W[c·m + j, k] x[n, c, s·p + d·k − pad]: K MACs an output, whatever the channels. Cheap
    in arithmetic, bound by memory; it mixes no channels, so a pointwise layer usually follows. The same as
    ``Conv{1,2,3}d(c, c*m, …, groups=c)``, with its state dict.

    Args:
        in_channels: C; the output has C × ``multiplier`` channels.
        kernel_size, stride, padding, dilation, bias, padding_mode: as :class:`Conv2d`.
        multiplier: filters per channel, m.

    Shape:
        input (n, c, *spatial) or (c, *spatial); output (n, c·m, *spatial'); weight (c·m, 1, *k).

    Raises:
        TypeError, ValueError: as :class:`Conv2d`.

    Source:
        Sifre, 2014; Howard et al., MobileNets, 2017.

    Example:
        >>> DepthwiseConv2d(16, 3, padding=1, multiplier=2)(torch.randn(1, 16, 9, 9)).shape
        torch.Size([1, 32, 9, 9])
    """

    def __init__(
        self,
        in_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        multiplier: int = 1,
    ) -> None:
        channels = integer("in_channels", in_channels, 1)
        outputs = channels * integer("multiplier", multiplier, 1)
        super().__init__(
            channels, outputs, kernel_size, stride, padding, dilation, channels, bias, padding_mode, device, dtype
        )

    @property
    def multiplier(self) -> int:
        """Filters per channel."""
        return self.out_channels // self.in_channels


class DepthwiseConv1d(_DepthwiseConv):  # noqa: D101  # as its base
    __doc__ = _DepthwiseConv.__doc__
    dim = 1


class DepthwiseConv2d(_DepthwiseConv):  # noqa: D101  # as its base
    __doc__ = _DepthwiseConv.__doc__
    dim = 2


class DepthwiseConv3d(_DepthwiseConv):  # noqa: D101  # as its base
    __doc__ = _DepthwiseConv.__doc__
    dim = 3


def from_problem(problem: ConvProblem, device: Any = None, dtype: Any = None) -> Conv:
    """The layer that computes ``problem``, with random weights."""
    return (Conv1d, Conv2d, Conv3d)[problem.dim - 1](
        problem.in_channels,
        problem.out_channels,
        problem.kernel_size,
        problem.stride,
        problem.padding,
        problem.dilation,
        problem.groups,
        problem.bias,
        problem.padding_mode,
        device,
        dtype,
    )


@planned
def _plan(
    dim: int, shape: tuple[int, ...], bias: bool, stride: Any, padding: Any, dilation: Any, groups: Any, mode: str
) -> ConvProblem:
    in_channels = shape[1] * integer("groups", groups, 1)
    return ConvProblem.of(
        "conv", dim, in_channels, shape[0], shape[2:], stride, padding, dilation, groups, bias=bias, padding_mode=mode
    )


def _plan_for(dim: int, weight: Tensor, bias: Tensor | None, *rest: Any) -> Plan:
    return _plan(dim, weight_of("weight", weight, dim + 2, "(o, c/g, *k)"), bias is not None, *rest)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve ``input`` (n, c, i) with ``weight`` (o, c/g, k); arguments as ``torch.nn.functional.conv1d``.

    Args:
        input: (n, c, i) or (c, i).
        weight: (o, c/g, k).
        bias: (o,) or None.
        stride, padding, dilation, groups, padding_mode: as :class:`omniconv.nn.Conv2d`.

    Returns:
        (n, o, p) or (o, p).

    Raises:
        TypeError, ValueError: as :class:`omniconv.nn.Conv2d`.
    """
    return _plan_for(1, weight, bias, stride, padding, dilation, groups, padding_mode)(input, weight, bias)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve ``input`` (n, c, h, w) with ``weight`` (o, c/g, k, k); see :func:`conv1d`."""
    return _plan_for(2, weight, bias, stride, padding, dilation, groups, padding_mode)(input, weight, bias)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve ``input`` (n, c, d, h, w) with ``weight`` (o, c/g, k, k, k); see :func:`conv1d`."""
    return _plan_for(3, weight, bias, stride, padding, dilation, groups, padding_mode)(input, weight, bias)
