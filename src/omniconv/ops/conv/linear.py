# SPDX-License-Identifier: Apache-2.0
"""The pointwise convolution of what has its channels last: a linear map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from omniconv.core.activated import RELU6, activation_backward, by_parts
from omniconv.core.choose import LEAST_TILED_CHANNELS, multiplies_tiles
from omniconv.core.follow import (
    Activation,
    activated_beside,
    activation_code,
    activation_of,
    follow,
    hooked,
    takes,
)
from omniconv.core.keeping import kept_empty
from omniconv.core.native import PLAIN, mask, plain
from omniconv.core.problem import ConvProblem

from .pointwise import followed, pointwise_at_once

LEAST_ROWS = 4  # fewer read each weight so seldom that torch's product of a matrix and a vector is faster
LEAST_RECORDED_ROWS = 256  # where weights are new at each call, and packed for it
LEAST_OWN_ROWS = 1 << 14  # from which on our products on the way back are faster than those of torch's BLAS
LEAST_RECORDED = 1 << 27  # products, with gradients: a step of autograd in Python takes as long as some of them


class Linear(nn.Linear):
    """A linear map of the last axis: a pointwise convolution of channels that lie last.

    y[…,o] = b[o] + Σ_c W[o,c] x[…,c]. Arguments, attributes and state dict are those of ``torch.nn.Linear``. In
    inference on a CPU its weights stay packed between calls, a copy of them, and what follows is computed with it. With
    gradients, in float32, large ones and their activation are one step of autograd, as convolutions are.

    Args:
        in_features, out_features: C and O.
        bias: whether a number per output is added.
        activation: at the end, as :class:`PointwiseConv2d`'s.

    ``forward`` takes a ``residual`` besides the input, of the output's shape, which is added before ``activation``.

    Shape:
        input (…, c); output (…, o); weight (o, c).

    Raises:
        TypeError, ValueError: as ``torch.nn.Linear``; an activation that is none, a ``residual`` of another shape than
            the output's.

    Source:
        Lin et al., Network In Network, 2014.

    Example:
        >>> Linear(64, 256, activation=nn.GELU)(torch.randn(2, 196, 64)).shape
        torch.Size([2, 196, 256])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.activation = activation_of("activation", activation)
        self._left = multiplies_tiles() and min(in_features, out_features) >= LEAST_TILED_CHANNELS
        self._followed = self._recorded = None
        if in_features > 0 and out_features > 0:
            problem = ConvProblem.of("conv", 1, in_features, out_features, 1, bias=bias)
            self._followed, self._recorded = followed(problem), pointwise_at_once(problem)

    def seal(self) -> None:
        """Take it that nobody changes the weights past torch's count, so that packed ones need not be compared."""
        if self._followed is not None:
            self._followed.seal()

    def arguments(self) -> dict[str, Any]:
        """What the class is called with for a layer like this one."""
        found = {"in_features": self.in_features, "out_features": self.out_features, "bias": self.bias is not None}
        return found | {"activation": self.activation}

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None:
            self._check_residual(input, residual)
        output = None if is_dynamo_compiling() else self._at_once(input, residual)
        if output is not None:
            return output
        return follow(super().forward(input), None, residual, self.activation)

    def _at_once(self, input: Any, residual: Tensor | None) -> Tensor | None:
        if self._followed is None or type(input) not in PLAIN or input.dim() < 1 or input.numel() == 0:
            return None
        if self._left and input.dtype is torch.bfloat16:
            return None
        if input.shape[-1] != self.in_features or input.numel() < LEAST_ROWS * self.in_features:
            return None
        tensors = input, self.weight, self.bias, residual
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            return self._with_gradients(input, residual)
        if not takes(tensors):
            return None
        added = None if residual is None else channels(residual)
        output = self._followed(channels(input), self.weight, self.bias, None, added, self.activation)
        return None if output is None else output.transpose(1, 2).reshape(*input.shape[:-1], -1).contiguous()

    def _with_gradients(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        code, tensors = activation_code(self.activation), (input, self.weight, self.bias)
        if code is None or hooked((self.activation,)) or not takes((*tensors, residual), recorded=True):
            return None
        if code > RELU6 and (residual is not None or getattr(self.activation, "inplace", False)):
            return None
        rows = input.numel() // self.in_features
        if input.dtype is not torch.float32 or rows < LEAST_RECORDED_ROWS:
            return None
        if input.numel() * self.out_features < LEAST_RECORDED:
            return None
        return _Recorded.apply((self._recorded, self.activation, code), residual, *tensors)

    def _check_residual(self, input: object, residual: object) -> None:
        if isinstance(residual, torch.fx.Proxy):
            return
        if not isinstance(residual, Tensor):
            raise TypeError(f"`residual` (={type(residual).__name__}) must be a torch.Tensor or None.")
        if isinstance(input, Tensor) and input.dim() > 0:
            want = (*input.shape[:-1], self.out_features)
            if tuple(residual.shape) != want:
                raise ValueError(f"`residual` shape (={tuple(residual.shape)}) must be that of the output, {want}.")


def channels(of: Tensor) -> Tensor:
    """(…, c) as one sample of c channels."""
    return of.reshape(1, -1, of.shape[-1]).transpose(1, 2)


class _Recorded(torch.autograd.Function):
    """The map, what is added and the activation, as one step of autograd.

    What is larger than weights lies in memory that may be kept. Products on the way back are those of torch's BLAS, but
    for many rows.
    """

    @staticmethod
    def forward(
        ctx: Any, how: tuple[Any, ...], residual: Tensor | None, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        at_once, _, code = ctx.how = how
        added = None if residual is None else channels(residual)
        shape = *input.shape[:-1], weight.shape[0]
        first = code if code <= RELU6 else 0
        kept = _rows(at_once(channels(input), weight.unsqueeze(2), bias, added, first), shape)
        output = _rows(activated_beside(channels(kept), code), shape) if code > RELU6 else kept
        ctx.bias = bias if code <= RELU6 else None  # no gradient depends on its numbers, which may change
        ctx.save_for_backward(kept if code else None, input, weight, bias if code > RELU6 else None)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (at_once, activation, code), (grad,) = ctx.how, grads
        kept, input, weight, bias = ctx.saved_tensors
        tensors = input, weight, ctx.bias if bias is None else bias
        _, needs_residual, *needed = ctx.needs_input_grad
        if torch.is_grad_enabled() or not plain((grad, kept, *tensors)):
            return None, *by_parts(_map, activation, code, kept, tensors, grad, (needs_residual, *needed))
        totals, through = None, grad.reshape(-1, grad.shape[-1])
        if code:
            through, totals = activation_backward(channels(grad), channels(kept), code, needed[2])
            through = through[0].t()
            grad = through.reshape(grad.shape)
        elif needed[2]:
            totals = through.sum(0)
        if len(through) >= LEAST_OWN_ROWS:
            products = _own_products(at_once.args[0], through, input, weight, needed)
        else:
            products = _products(through, input, weight, needed)
        return None, grad if needs_residual else None, *products, totals if needed[2] else None


def _rows(output: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One sample of channels as (…, c), no view: what autograd keeps it finds changed where others change it."""
    return torch.ops.aten._unsafe_view(output.transpose(1, 2), shape)  # noqa: SLF001


def _map(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(input, weight, bias)


def _products(grad: Tensor, input: Tensor, weight: Tensor, needed: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """The gradients of input and weight from that of rows of outputs."""
    of_input = of_weight = None
    if needed[0]:
        of_input = torch.mm(grad, weight, out=kept_empty(grad, len(grad), weight.shape[1])).reshape(input.shape)
    if needed[1]:
        of_weight = torch.mm(grad.t(), input.reshape(-1, input.shape[-1]))
    return of_input, of_weight


def _own_products(
    numbers: tuple[int, ...], grad: Tensor, input: Tensor, weight: Tensor, needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The same on the compiled kernels."""
    if not needed[0] and not needed[1]:
        return None, None
    gradients = torch.ops.omniconv.conv_native_backward_raw.default._op  # noqa: SLF001  # as core/native.py calls it
    tensors = channels(grad), channels(input), weight.unsqueeze(2), None
    of_input, of_weight, _ = gradients(*tensors, numbers, mask(needed[:2]))
    return _rows(of_input, input.shape) if needed[0] else None, of_weight.squeeze(2) if needed[1] else None
