# SPDX-License-Identifier: Apache-2.0
"""Layers and functions of the lightweight convolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniconv.core.check import weight_of
from omniconv.core.layer import ConvLayer
from omniconv.core.numbers import boolean, fraction, integer, one_of
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from omniconv.core.streaming import Streaming

from .aten import normalized
from .cost import HEAD_LAYOUTS


def _problem(
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
    head_layout: Any,
) -> ConvProblem:
    own: dict[str, Any] = {"heads": integer("heads", heads, 1), "softmax": int(boolean("softmax", softmax))}
    if one_of("head_layout", head_layout, HEAD_LAYOUTS) != "block":
        own |= {"head_layout": head_layout}
    c = integer("channels", channels, 1)
    return ConvProblem.of(
        "lightweight",
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
        **own,
    )


@planned
def _normalized_plan(problem: ConvProblem) -> ConvProblem:
    """The problem of the same layer on kernels that are normalised already."""
    return replace(problem, special=tuple((k, 0 if k == "softmax" else v) for k, v in problem.special))


class _LightweightConv(ConvLayer):
    def __init__(
        self,
        channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = "same",
        dilation: int | tuple[int, ...] = 1,
        bias: bool = False,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        heads: int = 1,
        softmax: bool = True,
        dropout: float = 0.0,
        head_layout: str = "block",
    ) -> None:
        share = fraction("dropout", dropout)
        problem = _problem(
            self.dim,
            channels,
            heads,
            kernel_size,
            stride,
            padding,
            dilation,
            bias,
            padding_mode,
            softmax,
            head_layout,
        )
        super().__init__(problem, (heads, *problem.kernel_size), padding, device, dtype)
        self.dropout = share

    @property
    def heads(self) -> int:
        """H."""
        return self.problem.number("heads")

    @property
    def softmax(self) -> bool:
        """Whether the taps are normalised."""
        return bool(self.problem["softmax"])

    @property
    def head_layout(self) -> str:
        """Which channels share a head."""
        return str(self.problem.get("head_layout", "block"))

    def reset_parameters(self) -> None:
        """Draw the weight by Xavier's rule on (H, 1, *K), as fairseq does, and set the bias to zero.

        The fans are K in and H·K out, so the bound is sqrt(6 / (K + H·K)); on (H, K), the shape of fairseq's CUDA
        class, the same rule gives sqrt(6 / (K + H)).
        """
        with torch.no_grad():
            nn.init.xavier_uniform_(self.weight.unsqueeze(1))
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, input: Tensor) -> Tensor:
        return self._through(self.plan, input)

    def _through(self, plan: Plan, input: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return plan(input, self.weight, self.bias)
        weight = F.dropout(normalized(self.weight) if self.softmax else self.weight, self.dropout)
        return _normalized_plan(plan.problem)(input, weight, self.bias)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, kernel_size={self.kernel_size}, heads={self.heads}, padding={self.padding!r}"]
        if any(s != 1 for s in self.stride):
            parts.append(f"stride={self.stride}")
        if any(d != 1 for d in self.dilation):
            parts.append(f"dilation={self.dilation}")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        parts.append(f"softmax={self.softmax}, bias={self.bias is not None}")
        if self.dropout:
            parts.append(f"dropout={self.dropout}")
        if self.head_layout != "block":
            parts.append(f"head_layout={self.head_layout}")
        return ", ".join(parts)


class LightweightConv1d(Streaming, _LightweightConv):
    """Depthwise convolution over a sequence, with one normalised kernel for all channels of a head.

    y[n,c,p] = b[c] + Σ_k w[h,k] x[n, c, s·p + d·k − pad], w[h] = softmax of W[h] over its K taps, h = ⌊c/(C/H)⌋. H·K
    weights whatever the channels: a weighted mean of neighbours for sequences, between two linear layers that mix the
    channels. Where the kernel should follow the content, see :class:`DynamicConv1d`; where each channel should have a
    kernel of its own, :class:`DepthwiseConv1d`. With ``padding="causal"`` it also runs chunk by chunk.

    Args:
        channels: C, in and out.
        kernel_size: K, taps per axis.
        stride, dilation, padding_mode: as :class:`Conv2d`.
        padding: as :class:`Conv2d`, with ``"same"`` by default; fairseq's ``padding_l=P`` is ``((P, K - 1 - P),)``.
        bias: whether a number per channel is added.
        heads: H; the C/H channels of a head share a kernel. 1 is one kernel for all, C is depthwise.
        softmax: whether the taps of a head are normalised, in float32 where the weight has fewer bits.
        dropout: while training, the share of normalised weights that are set to zero, the others divided by
            ``1 - dropout``: DropConnect. One draw a call, the same for all positions and channels of a head. They are
            not normalised again; espnet drops before the softmax instead, which leaves a dropped tap the share exp(0).
        head_layout: ``"block"`` gives neighbouring channels one head, ``"interleaved"`` channel c head c mod H.

    Shape:
        input (n, c, i) or (c, i); output (n, c, p) or (c, p), p = i with ``"same"`` and with ``"causal"`` at stride 1;
        weight (h, k).

    Raises:
        TypeError, ValueError: as :class:`Conv2d`; heads that do not divide the channels, a dropout outside 0 to 1.

    Source:
        Wu et al., Pay Less Attention with Lightweight and Dynamic Convolutions, 2019.

    Example:
        >>> layer = LightweightConv1d(16, 7, heads=4, padding="causal")
        >>> layer.weight.shape, layer(torch.randn(2, 16, 50)).shape
        (torch.Size([4, 7]), torch.Size([2, 16, 50]))
    """

    dim = 1

    def _convolve_window(self, window: Tensor, chunk: Tensor, done: slice) -> Tensor:
        return self._through(self.unpadded, window)

    @classmethod
    def from_fairseq(
        cls,
        state_dict: Mapping[str, Tensor],
        channels: int | None = None,
        *,
        prefix: str = "",
        padding: Any = "same",
        softmax: bool = True,
        dropout: float = 0.0,
        head_layout: str = "block",
    ) -> LightweightConv1d:
        """Return the layer that computes what a lightweight convolution of fairseq computes with these weights.

        Args:
            state_dict: ``weight`` of shape (H, 1, K), or (H, K) from the CUDA class, and ``bias`` if there is one.
            channels: C; needed where there is no bias.
            prefix: what stands before the names, such as ``"decoder.layers.0.conv."``.
            padding: as the layer's; fairseq's ``padding_l=P`` is ``((P, K - 1 - P),)``, its decoders are ``"causal"``.
            softmax, dropout: fairseq's ``weight_softmax`` and ``weight_dropout``.
            head_layout: ``"interleaved"`` for fairseq's ``LightweightConv1d``, which takes (n, c, t) and gives channel
                c the head c mod H; ``"block"`` for all its others, which take (t, n, c).

        Raises:
            ValueError: names or shapes that are not those of a lightweight convolution.
        """
        held = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        if "weight" not in held or not held.keys() <= {"weight", "bias"}:
            raise ValueError(f"`state_dict` names (={sorted(held)}) must be 'weight' and perhaps 'bias'; see `prefix`.")
        weight, bias = held["weight"], held.get("bias")
        if weight.dim() == 3 and weight.shape[1] == 1:
            weight = weight.squeeze(1)
        if weight.dim() != 2:
            raise ValueError(f"`weight` shape (={tuple(weight.shape)}) must be (h, 1, k) or (h, k).")
        if channels is None and bias is None:
            raise ValueError("`channels` (=None) must be given where the weights have no bias to read it from.")
        layer = cls(
            bias.shape[0] if channels is None and bias is not None else channels,  # type: ignore[arg-type]
            weight.shape[1],
            padding=padding,
            bias=bias is not None,
            device=weight.device,
            dtype=weight.dtype,
            heads=weight.shape[0],
            softmax=softmax,
            dropout=dropout,
            head_layout=head_layout,
        )
        layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        return layer


class LightweightConv2d(_LightweightConv):
    """Lightweight convolution over an image: one normalised kernel for all channels of a head.

    The formula and the arguments are those of :class:`LightweightConv1d`; the softmax is over all K = k·k taps of a
    head together, and a per-axis number is one or one per axis.

    Shape:
        input (n, c, h, w) or (c, h, w); output (n, c, h', w') or (c, h', w'); weight (heads, k, k).

    Raises:
        TypeError, ValueError: as :class:`LightweightConv1d`.

    Source:
        Wu et al., 2019, with two axes.

    Example:
        >>> layer = LightweightConv2d(64, 3, heads=8)
        >>> sum(p.numel() for p in layer.parameters()), layer(torch.randn(1, 64, 9, 9)).shape
        (72, torch.Size([1, 64, 9, 9]))
    """

    dim = 2


class LightweightConv3d(_LightweightConv):
    """Lightweight convolution over a volume or a clip: one normalised kernel for all channels of a head.

    The formula and the arguments are those of :class:`LightweightConv1d` with three axes;
    ``padding=("causal", "same", "same")`` makes a clip causal in time.

    Shape:
        input (n, c, d, h, w) or (c, d, h, w); output (n, c, d', h', w') or (c, d', h', w'); weight (heads, k, k, k).

    Raises:
        TypeError, ValueError: as :class:`LightweightConv1d`.

    Source:
        Wu et al., 2019, with three axes.

    Example:
        >>> LightweightConv3d(8, (3, 1, 1), heads=2)(torch.randn(1, 8, 4, 5, 5)).shape
        torch.Size([1, 8, 4, 5, 5])
    """

    dim = 3


def from_problem(problem: ConvProblem, device: Any = None, dtype: Any = None) -> _LightweightConv:
    """The layer that computes ``problem``, with random weights."""
    return (LightweightConv1d, LightweightConv2d, LightweightConv3d)[problem.dim - 1](
        problem.in_channels,
        problem.kernel_size,
        problem.stride,
        problem.padding,
        problem.dilation,
        problem.bias,
        problem.padding_mode,
        device,
        dtype,
        heads=problem.number("heads"),
        softmax=bool(problem["softmax"]),
        head_layout=str(problem.get("head_layout", "block")),
    )


_plan = planned(_problem)


def _plan_for(dim: int, input: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Plan:
    heads, *kernel_size = weight_of("weight", weight, dim + 1, "(h, *k)")
    if not isinstance(input, Tensor):
        raise TypeError(f"`input` (={type(input).__name__}) must be a torch.Tensor.")
    channels = input.shape[-1 - dim] if input.dim() > dim else heads
    stride, padding, dilation, padding_mode, softmax, head_layout = rest
    return _plan(
        dim,
        channels,
        heads,
        tuple(kernel_size),
        stride,
        padding,
        dilation,
        bias is not None,
        padding_mode,
        softmax,
        head_layout,
    )


def lightweight_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Any = "same",
    softmax: bool = True,
    stride: int | tuple[int, ...] = 1,
    dilation: int | tuple[int, ...] = 1,
    padding_mode: str = "zeros",
    head_layout: str = "block",
) -> Tensor:
    """Convolve each channel of ``input`` with the kernel of its head.

    Args:
        input: (n, c, i) or (c, i).
        weight: (h, k), h a divisor of c.
        bias: (c,) or None.
        padding, softmax, stride, dilation, padding_mode, head_layout: as :class:`omniconv.nn.LightweightConv1d`.

    Returns:
        (n, c, p) or (c, p).

    Raises:
        TypeError, ValueError: as :class:`omniconv.nn.LightweightConv1d`.
    """
    rest = (stride, padding, dilation, padding_mode, softmax, head_layout)
    return _plan_for(1, input, weight, bias, *rest)(input, weight, bias)


def lightweight_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Any = "same",
    softmax: bool = True,
    stride: int | tuple[int, ...] = 1,
    dilation: int | tuple[int, ...] = 1,
    padding_mode: str = "zeros",
    head_layout: str = "block",
) -> Tensor:
    """Convolve each channel of ``input`` (n, c, y, x) with its head's kernel; see :func:`lightweight_conv1d`."""
    rest = (stride, padding, dilation, padding_mode, softmax, head_layout)
    return _plan_for(2, input, weight, bias, *rest)(input, weight, bias)


def lightweight_conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    padding: Any = "same",
    softmax: bool = True,
    stride: int | tuple[int, ...] = 1,
    dilation: int | tuple[int, ...] = 1,
    padding_mode: str = "zeros",
    head_layout: str = "block",
) -> Tensor:
    """Convolve each channel of ``input`` (n, c, z, y, x) with its head's kernel; see :func:`lightweight_conv1d`."""
    rest = (stride, padding, dilation, padding_mode, softmax, head_layout)
    return _plan_for(3, input, weight, bias, *rest)(input, weight, bias)
