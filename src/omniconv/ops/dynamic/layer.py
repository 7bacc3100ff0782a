# SPDX-License-Identifier: Apache-2.0
"""Layers of the dynamic convolution, which predict their kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniconv.core.layer import PlannedLayer
from omniconv.core.numbers import boolean, fraction, integer
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from omniconv.ops.conv.layer import Conv1d, Conv2d, Conv3d

from .aten import normalized
from .cost import check, given_problem, normalized_problem
from .fairseq import from_weights
from .function import dynamic_conv1d, dynamic_conv2d, dynamic_conv3d, problem_of
from .stream import DynamicStreaming

__all__ = [
    "DynamicConv1d",
    "DynamicConv2d",
    "DynamicConv3d",
    "dynamic_conv1d",
    "dynamic_conv2d",
    "dynamic_conv3d",
    "from_problem",
]
_CONV = (Conv1d, Conv2d, Conv3d)
_normalized_plan = planned(normalized_problem)


class _DynamicConv(PlannedLayer):
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
        renorm_padding: bool = False,
        dropout: float = 0.0,
        query_channels: int | None = None,
        predictor_bias: bool = False,
        context: str = "position",
        in_proj: bool = False,
        predictor: nn.Module | None = None,
    ) -> None:
        share = fraction("dropout", dropout)
        if predictor is not None and not isinstance(predictor, nn.Module):
            raise TypeError(f"`predictor` (={type(predictor).__name__}) must be a torch.nn.Module or None.")
        words = (padding_mode, softmax, renorm_padding, context)
        problem = problem_of(self.dim, channels, heads, kernel_size, stride, padding, dilation, bias, *words)
        more: dict[str, Any] = {"predictor": int(predictor is None)}
        if boolean("in_proj", in_proj) and predictor is None:
            more |= {"in_proj": 1}
        if query_channels is not None and predictor is None:
            more |= {"query": integer("query_channels", query_channels, 1)}
        if boolean("predictor_bias", predictor_bias):
            more |= {"predictor_bias": 1}
        problem = replace(problem, special=tuple(sorted((dict(problem.special) | more).items())))
        if predictor is not None and predictor_bias:
            raise ValueError(
                "`predictor_bias` (=True) belongs to the layer's own predictor; use False beside `predictor`."
            )
        check(problem)
        super().__init__(given_problem(problem), padding)
        self._problem = problem
        self.dropout = share
        self._query_channels = query_channels
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        conv, outputs = _CONV[self.dim - 1], heads * prod(problem.kernel_size)
        self.in_proj: Any = conv(channels, channels, 1, **factory) if in_proj else None
        self.predictor: Any = predictor
        if predictor is None:
            self.predictor = conv(query_channels or channels, outputs, 1, bias=predictor_bias, **factory)
        self.register_parameter("bias", nn.Parameter(torch.empty(channels, **factory)) if bias else None)
        self.reset_parameters()

    @property
    def problem(self) -> ConvProblem:
        """The numbers of this layer, without an input size, and with the predictor that is its own."""
        return self._problem

    @property
    def heads(self) -> int:
        """H."""
        return self._problem.number("heads")

    @property
    def softmax(self) -> bool:
        """Whether the taps are normalised."""
        return bool(self._problem["softmax"])

    @property
    def renorm_padding(self) -> bool:
        """Whether taps on padding get no share."""
        return bool(self._problem.get("renorm_padding", 0))

    @property
    def context(self) -> str:
        """What predicts a kernel: a position or the sequence."""
        return str(self._problem.get("context", "position"))

    @property
    def query_channels(self) -> int | None:
        """Q of a query that must be given, or None."""
        return self._query_channels

    @property
    def predicts_linearly(self) -> bool:
        """Whether the predictor is the layer's own linear map."""
        return bool(self._problem.get("predictor", 0))

    def reset_parameters(self) -> None:
        """Draw the projections by Xavier's rule and set the biases to zero; a predictor from outside is left alone."""
        for part in (self.in_proj, self.predictor if self.predicts_linearly else None):
            if part is not None:
                nn.init.xavier_uniform_(part.weight)
            if part is not None and part.bias is not None:
                nn.init.zeros_(part.bias)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor, query: Tensor | None = None) -> Tensor:
        if not isinstance(input, Tensor):
            raise TypeError(f"`input` (={type(input).__name__}) must be a torch.Tensor.")
        self._check_kind(query)
        if input.dim() == self.dim + 1:
            return self.forward(input.unsqueeze(0), query if query is None else query.unsqueeze(0)).squeeze(0)
        positions = self.problem.out_size_of(tuple(input.shape[2:]))
        source = input if query is None else query
        if query is None and self.context == "position":
            places: list[Any] = [slice(0, s * (p - 1) + 1, s) for s, p in zip(self.stride, positions, strict=True)]
            source = input[(..., *places)]
        kernels = self._kernels(source, query is not None, positions)
        return self._convolved(self.plan, input if self.in_proj is None else self.in_proj(input), kernels)

    def _kernels(self, source: Tensor, asked: bool, positions: tuple[int, ...]) -> Tensor:
        """Kernels (n, h, *k, *p) from the features at the output's positions, or from the mean of all there are."""
        if asked:
            self._check_query(source, positions)
        elif self.query_channels is not None:
            raise TypeError(f"`query` (=None) must be a torch.Tensor of `query_channels` (={self.query_channels}).")
        if self.context == "sequence":
            source, positions = source.mean(tuple(range(2, 2 + self.dim)), keepdim=True), (1,) * self.dim
        numbers = self.predictor(source)
        taps = (self.heads, *self.kernel_size)
        want = (source.shape[0], prod(taps), *positions)
        if tuple(numbers.shape) != want:
            raise ValueError(
                f"`predictor` gives shape (={tuple(numbers.shape)}) and must give {want}: a number for each of "
                f"{self.heads} heads and {prod(self.kernel_size)} taps at each output position."
            )
        return numbers.unflatten(1, taps)

    def _check_kind(self, query: object) -> None:
        if query is not None and not isinstance(query, Tensor):
            raise TypeError(f"`query` (={type(query).__name__}) must be a torch.Tensor or None.")

    def _check_query(self, query: Tensor, positions: tuple[int, ...]) -> None:
        channels = self.query_channels or (self.in_channels if self.predicts_linearly else query.shape[1])
        given = tuple(query.shape[1:])
        if (
            query.dim() != self.dim + 2
            or given[0] != channels
            or (self.context == "position" and given[1:] != positions)
        ):
            at = "any positions" if self.context == "sequence" else f"{positions} positions, those of the output"
            raise ValueError(f"`query` shape (={tuple(query.shape)}) must have a batch, {channels} channels and {at}.")

    def _convolved(self, plan: Plan, input: Tensor, kernels: Tensor) -> Tensor:
        if not (self.training and self.dropout):
            return plan(input, kernels, self.bias)
        shares = kernels
        if self.softmax:
            geometry = plan.family.numbers(plan.problem, tuple(input.shape[2:]))[:3]
            shares = normalized(kernels, input.shape[2:], *geometry, renorm=self.renorm_padding)
        dropped = F.dropout(shares, self.dropout).to(kernels.dtype)
        return _normalized_plan(plan.problem)(input, dropped, self.bias)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, kernel_size={self.kernel_size}, heads={self.heads}, padding={self.padding!r}"]
        defaults = {
            "stride": (1,) * self.dim,
            "dilation": (1,) * self.dim,
            "padding_mode": "zeros",
            "softmax": True,
            "renorm_padding": False,
            "dropout": 0.0,
            "query_channels": None,
            "context": "position",
        }
        parts += [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join([*parts, f"bias={self.bias is not None}"])


class DynamicConv1d(DynamicStreaming, _DynamicConv):
    """Lightweight convolution over a sequence whose kernels are predicted at each position.

    y[n,c,p] = b[c] + Σ_k w[n,h,k,p] x[n, c, s·p + d·k − pad], w[n,h,:,p] = softmax over k of (V q[n,:,p])[h·K + k],
    h = ⌊c/(C/H)⌋; q[n,:,p] is the input at s·p, or a query of your own. Linear in the length where self-attention is
    quadratic. The kernel follows the content, for C·H·K weights and as many products a position: C times a
    :class:`LightweightConv1d`. With ``padding="causal"`` it also runs chunk by chunk.

    Args:
        channels: C, in and out.
        kernel_size, stride, padding, dilation, padding_mode, bias, heads: as :class:`LightweightConv1d`.
        softmax: whether the taps of a kernel are normalised, in float32 where the input has fewer bits. Without it the
            2-D layer is involution.
        renorm_padding: whether taps on padding get no share, so that the others sum to 1 at the borders too. As
            published they do not: a kernel is normalised first, and its taps on padding then meet zeros.
        dropout: while training, the share of normalised weights that are set to zero, the others divided by
            ``1 - dropout``; drawn for each head, tap and position, and not normalised again.
        query_channels: Q of a query that ``forward`` is given besides the input; without it, the input is the query,
            unless ``forward`` is given one of C channels.
        predictor_bias: whether the predicted numbers have a bias.
        context: ``"position"`` predicts a kernel at each position; ``"sequence"`` one for all positions, from the mean
            over them, so that each output depends on the whole sequence.
        in_proj: whether the values pass a linear map of their own first; the kernels are predicted from what it reads.
        predictor: a module from (n, q, *p) to (n, H·K, *p) in place of the linear map V.

    Shape:
        input (n, c, i) or (c, i); query (n, q, p), a feature for each output; output (n, c, p) or (c, p); weight
        of the predictor (h·k, q, 1).

    Raises:
        TypeError, ValueError: as :class:`LightweightConv1d`; a query without the output's positions; ``renorm_padding``
            without softmax or on padding that holds data; more padding than d(k-1) where positions predict.

    Source:
        Wu et al., Pay Less Attention with Lightweight and Dynamic Convolutions, 2019.

    Example:
        >>> layer = DynamicConv1d(16, 5, heads=4, padding="causal")
        >>> state = layer.initial_state(batch=2)
        >>> output, state = layer.step(torch.randn(2, 16, 7), state)
        >>> output.shape, layer.predictor.weight.shape
        (torch.Size([2, 16, 7]), torch.Size([20, 16, 1]))
    """

    dim = 1

    @classmethod
    def from_fairseq(
        cls,
        state_dict: Mapping[str, Tensor],
        heads: int,
        channels: int | None = None,
        *,
        prefix: str = "",
        in_proj: bool = False,
        padding: Any = "same",
        softmax: bool = True,
        renorm_padding: bool = False,
        dropout: float = 0.0,
    ) -> DynamicConv1d:
        """Return the layer that computes what a dynamic convolution of fairseq computes with these weights.

        Args:
            state_dict: ``weight_linear.weight`` of shape (H·K, Q), perhaps ``weight_linear.bias`` and ``conv_bias``.
                With ``in_proj`` the rows are C for the values, then H·K.
            heads: H.
            channels: C, where it differs from Q: then the layer takes a query.
            prefix: what stands before the names, such as ``"decoder.layers.0.conv."``.
            in_proj: fairseq's argument of that name.
            padding: as the layer's; fairseq's ``padding_l=P`` is ``((P, K - 1 - P),)``, its decoders are ``"causal"``.
            softmax, renorm_padding, dropout: fairseq's ``weight_softmax``, ``renorm_padding`` and ``weight_dropout``.

        Raises:
            ValueError: names or shapes that are not those of a dynamic convolution with that many heads.
        """
        numbers, weights = from_weights(state_dict, heads, channels, prefix, in_proj=in_proj)
        layer = cls(
            **numbers,
            padding=padding,
            heads=heads,
            softmax=softmax,
            renorm_padding=renorm_padding,
            dropout=dropout,
            in_proj=in_proj,
        )
        layer.load_state_dict(weights)
        return layer


class DynamicConv2d(_DynamicConv):
    """Dynamic convolution over an image: a kernel for each pixel and head; without softmax, involution.

    The formula and the arguments are those of :class:`DynamicConv1d`; the softmax is over all K = k·k taps together.

    Shape:
        input (n, c, h, w) or (c, h, w); query (n, q, h', w'); output (n, c, h', w') or (c, h', w'); weight of the
        predictor (heads·k·k, q, 1, 1).

    Raises:
        TypeError, ValueError: as :class:`DynamicConv1d`.

    Source:
        Wu et al., 2019, with two axes; without softmax: Li et al., Involution, 2021.

    Example:
        >>> reduce = torch.nn.Sequential(torch.nn.Conv2d(16, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2 * 7 * 7, 1))
        >>> involution = DynamicConv2d(16, 7, heads=2, softmax=False, predictor=reduce)
        >>> involution(torch.randn(1, 16, 12, 12)).shape
        torch.Size([1, 16, 12, 12])
    """

    dim = 2


class DynamicConv3d(_DynamicConv):
    """Dynamic convolution over a volume or a clip: a kernel for each position and head.

    The formula and the arguments are those of :class:`DynamicConv1d` with three axes.

    Shape:
        input (n, c, d, h, w) or (c, d, h, w); query (n, q, d', h', w'); output (n, c, d', h', w') or (c, d', h', w').

    Raises:
        TypeError, ValueError: as :class:`DynamicConv1d`.

    Source:
        Wu et al., 2019, with three axes.

    Example:
        >>> DynamicConv3d(8, (3, 1, 1), heads=2)(torch.randn(1, 8, 4, 5, 5)).shape
        torch.Size([1, 8, 4, 5, 5])
    """

    dim = 3


class GivenKernels(PlannedLayer):
    """The layer of a problem whose kernels are given: it holds a bias at most; ``forward`` takes (input, weight)."""

    def __init__(self, problem: ConvProblem, device: Any = None, dtype: Any = None) -> None:
        super().__init__(problem, problem.padding)
        bias = nn.Parameter(torch.zeros(problem.out_channels, device=device, dtype=dtype)) if problem.bias else None
        self.register_parameter("bias", bias)

    def forward(self, input: Tensor, weight: Tensor) -> Tensor:
        return self.plan(input, weight, self.bias)


def from_problem(problem: ConvProblem, device: Any = None, dtype: Any = None) -> PlannedLayer:
    """The layer that computes ``problem``, with random weights; without a predictor, it is given kernels each time."""
    words: dict[str, Any] = dict(problem.special)
    if not words.get("predictor"):
        return GivenKernels(problem, device, dtype)
    return (DynamicConv1d, DynamicConv2d, DynamicConv3d)[problem.dim - 1](
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
        softmax=bool(words["softmax"]),
        renorm_padding=bool(words.get("renorm_padding")),
        query_channels=words.get("query"),
        predictor_bias=bool(words.get("predictor_bias")),
        context=words.get("context", "position"),
        in_proj=bool(words.get("in_proj")),
    )
