# SPDX-License-Identifier: Apache-2.0
"""Layers and functions of the transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from omniconv.core.check import weight_of
from omniconv.core.layer import ConvLayer
from omniconv.core.numbers import integer
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from omniconv.core.streaming import Streaming, StreamState, check_chunk

from .overlap import overlap_map, overlap_verdict

__all__ = [
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "from_problem",
    "overlap_map",
    "overlap_verdict",
]


class _ConvTranspose(ConvLayer):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        output_padding: int | tuple[int, ...] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | tuple[int, ...] = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        problem = ConvProblem.of(
            "transposed",
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
            transposed=True,
            output_padding=output_padding,
        )
        shape = (problem.in_channels, problem.out_channels // problem.groups, *problem.kernel_size)
        super().__init__(problem, shape, padding, device, dtype)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        plan = self.plan if output_size is None else self._plan_to(input, output_size)
        return plan(input, self.weight, self.bias)

    def _plan_to(self, input: Tensor, output_size: Sequence[int]) -> Plan:
        """The plan that reaches ``output_size``, which may have batch and channels in front, as a shape does."""
        if not isinstance(input, Tensor):
            raise TypeError(f"`input` (={type(input).__name__}) must be a torch.Tensor.")
        wanted: Any = output_size
        if isinstance(wanted, Sequence) and len(wanted) == input.dim():
            wanted = wanted[-self.dim :]
        extra = self.problem.output_padding_for(tuple(input.shape[-self.dim :]), wanted)
        return _plan_with(self.problem, extra)


class ConvTranspose1d(Streaming, _ConvTranspose):
    """Transposed convolution over a sequence; with ``padding="causal"`` it also runs chunk by chunk.

    y[n, o, s·i + d·k − pad] += Σ_c W[c,o,k] x[n,c,i], then + b[o]. Arguments, attributes and state dict are those of
    ``torch.nn.ConvTranspose1d``; the arguments are explained at :class:`ConvTranspose2d`.

    Shape:
        input (n, c, i) or (c, i); output (n, o, p) or (o, p), p = (i − 1)s + d(k−1) + 1 − before − after +
        output_padding; weight (c, o/g, k).

    Raises:
        TypeError, ValueError: as :class:`ConvTranspose2d`.

    Source:
        Zeiler et al., 2010; causal in sound decoders: Zeghidour et al., SoundStream, 2021.

    Example:
        >>> layer = ConvTranspose1d(4, 2, kernel_size=6, stride=3, padding="causal")
        >>> state = layer.initial_state(batch=1)
        >>> first, state = layer.step(torch.randn(1, 4, 5), state)
        >>> second, state = layer.step(torch.randn(1, 4, 1), state)
        >>> first.shape, second.shape
        (torch.Size([1, 2, 15]), torch.Size([1, 2, 3]))
    """

    dim = 1

    def initial_state(self, batch: int = 1) -> StreamState:
        """Return the state before the first chunk: the ⌊(e − 1)/s⌋ inputs that later outputs still read, as zeros.

        Raises:
            ValueError: the layer is not causal.
        """
        return StreamState(self.weight.new_zeros(integer("batch", batch, 0), self.in_channels, self._reach()))

    def step(self, chunk: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """Return the s outputs for each position of ``chunk`` (n, c, length), and the state for the next chunk.

        Any split of a sequence into chunks, empty ones included, gives the outputs of one call on the whole.

        Raises:
            TypeError: not a tensor, or not a state.
            ValueError: the layer is not causal, the chunk's batch or channels differ from the state's, or the state is
                that of another layer.
        """
        reach = self._reach()
        check_chunk(chunk, state, self.in_channels, reach)
        if chunk.shape[2] == 0:
            return chunk.new_empty(chunk.shape[0], self.out_channels, 0), state
        joined = torch.cat([state.history, chunk], dim=2)
        output = self.plan(joined, self.weight, self.bias)[:, :, reach * self.stride[0] :]
        return output, StreamState(joined[:, :, joined.shape[2] - reach :])

    def _reach(self) -> int:
        problem = self.problem
        span, stride = problem.span[0], problem.stride[0]
        causal = (((0, max(span - stride, 0)),), (max(stride - span, 0),))
        if (problem.pads(), problem.appended) != causal:
            raise ValueError(
                f"`padding` (={problem.padding}) must be 'causal' to stream a transposed layer; an output may not wait "
                "for inputs that come after it."
            )
        return (span - 1) // stride


class ConvTranspose2d(_ConvTranspose):
    """Transposed convolution over an image: every input position scatters a weighted kernel, s apart, and sums.

    y[n, o, s·i + d·k − pad] += Σ_c W[c,o,k] x[n,c,i], then + b[o]. It widens an image by its stride with learned
    weights: the matrix of the convolution with the same numbers, transposed, and not its inverse. Where k is no
    multiple of s some outputs are written more often than others, which shows as a checkerboard
    (:func:`omniconv.functional.overlap_verdict`). Arguments, their order, attributes and state dict are those of
    ``torch.nn.ConvTranspose2d``; ``padding`` takes more.

    Args:
        in_channels, out_channels: C and O.
        kernel_size: taps per axis, one number or one per axis.
        stride: outputs between the kernels of two neighbouring inputs.
        padding: positions **cropped** from both sides, one number or one per axis; a pair ``(before, after)`` per axis;
            or a rule: ``"valid"`` none, ``"same"`` and ``"tf_same"`` so that the output is s·i, the odd one after,
            ``"same_lower"`` the odd one before, ``"causal"`` (of one axis) all after.
        output_padding: positions appended after each axis, less than the stride or the dilation; they hold what
            overlaps them and the bias.
        groups: G; channels meet only inside their group.
        bias: whether a number per output channel is added.
        dilation: step between taps.
        padding_mode: ``"zeros"``; there is nothing to repeat where positions are cropped.

    ``forward(input, output_size)`` chooses the ``output_padding`` that reaches ``output_size``, given per axis or as a
    whole shape; from the size without output padding on, max(s, d) sizes can be reached.

    Shape:
        input (n, c, h, w) or (c, h, w); output (n, o, h', w') or (o, h', w'), each axis
        (i − 1)s + d(k−1) + 1 − before − after + output_padding; weight (c, o/g, k, k).

    Raises:
        TypeError: an argument that is not a number, tuple or word as asked; an input that is not a floating tensor.
        ValueError: groups that do not divide the channels, an ``output_padding`` or ``output_size`` out of range,
            a padding that crops everything, a padding mode other than zeros, or an input with other channels.

    Source:
        Zeiler et al., Deconvolutional Networks, 2010; Long, Shelhamer & Darrell, 2015.

    Example:
        >>> layer = ConvTranspose2d(16, 8, 4, stride=2, padding=1)
        >>> layer(torch.randn(1, 16, 14, 14)).shape
        torch.Size([1, 8, 28, 28])
        >>> layer(torch.randn(1, 16, 14, 14), output_size=(29, 28)).shape
        torch.Size([1, 8, 29, 28])
    """

    dim = 2


class ConvTranspose3d(_ConvTranspose):
    """Transposed convolution over a volume or a clip; signature and state dict of ``torch.nn.ConvTranspose3d``.

    The formula and the arguments are those of :class:`ConvTranspose2d` with three axes.

    Shape:
        input (n, c, d, h, w) or (c, d, h, w); output (n, o, d', h', w') or (o, d', h', w'); weight (c, o/g, k, k, k).

    Raises:
        TypeError, ValueError: as :class:`ConvTranspose2d`.

    Source:
        Çiçek et al., 3D U-Net, 2016.

    Example:
        >>> layer = ConvTranspose3d(4, 2, 2, stride=2)
        >>> layer(torch.randn(1, 4, 3, 5, 5)).shape
        torch.Size([1, 2, 6, 10, 10])
    """

    dim = 3


def from_problem(problem: ConvProblem, device: Any = None, dtype: Any = None) -> _ConvTranspose:
    """The layer that computes ``problem``, with random weights."""
    return (ConvTranspose1d, ConvTranspose2d, ConvTranspose3d)[problem.dim - 1](
        problem.in_channels,
        problem.out_channels,
        problem.kernel_size,
        problem.stride,
        problem.padding,
        problem.output_padding,
        problem.groups,
        problem.bias,
        problem.dilation,
        problem.padding_mode,
        device,
        dtype,
    )


@planned
def _plan_with(problem: ConvProblem, output_padding: tuple[int, ...]) -> ConvProblem:
    return replace(problem, output_padding=output_padding)


@planned
def _plan(
    dim: int,
    shape: tuple[int, ...],
    bias: bool,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    mode: str,
) -> ConvProblem:
    return ConvProblem.of(
        "transposed",
        dim,
        shape[0],
        shape[1] * integer("groups", groups, 1),
        shape[2:],
        stride,
        padding,
        dilation,
        groups,
        bias=bias,
        padding_mode=mode,
        transposed=True,
        output_padding=output_padding,
    )


def _plan_for(dim: int, weight: Tensor, bias: Tensor | None, *rest: Any) -> Plan:
    return _plan(dim, weight_of("weight", weight, dim + 2, "(c, o/g, *k)"), bias is not None, *rest)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    dilation: int | tuple[int, ...] = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Scatter ``input`` (n, c, i) with ``weight`` (c, o/g, k); arguments as ``torch.nn.functional.conv_transpose1d``.

    Args:
        input: (n, c, i) or (c, i).
        weight: (c, o/g, k).
        bias: (o,) or None.
        stride, padding, output_padding, groups, dilation, padding_mode: as :class:`omniconv.nn.ConvTranspose2d`.

    Returns:
        (n, o, p) or (o, p).

    Raises:
        TypeError, ValueError: as :class:`omniconv.nn.ConvTranspose2d`.
    """
    plan = _plan_for(1, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode)
    return plan(input, weight, bias)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    dilation: int | tuple[int, ...] = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Scatter ``input`` (n, c, h, w) with ``weight`` (c, o/g, k, k); see :func:`conv_transpose1d`."""
    plan = _plan_for(2, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode)
    return plan(input, weight, bias)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    output_padding: int | tuple[int, ...] = 0,
    groups: int = 1,
    dilation: int | tuple[int, ...] = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Scatter ``input`` (n, c, d, h, w) with ``weight`` (c, o/g, k, k, k); see :func:`conv_transpose1d`."""
    plan = _plan_for(3, weight, bias, stride, padding, output_padding, groups, dilation, padding_mode)
    return plan(input, weight, bias)
