# SPDX-License-Identifier: Apache-2.0
"""A pointwise convolution and the batch norm behind it, in training: one step of autograd.

On the way back, what the norm gives the convolution is computed for some hundred positions at a time and read for both
gradients while it is in the cache. It is then never in memory.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from omniconv.core.follow import hooked
from omniconv.core.native import PLAIN, plain, through
from omniconv.core.normed import batch_norm, normed_by_parts

from . import is_unpadded_pointwise
from .layer import Conv1d, Conv2d, Conv3d, PointwiseConv1d, PointwiseConv2d, PointwiseConv3d

LAYERS = (Conv1d, Conv2d, Conv3d, PointwiseConv1d, PointwiseConv2d, PointwiseConv3d)


@cache
def _backward() -> Any:
    operators = torch.ops.omniconv
    return operators.pointwise_normed_backward.default._op if hasattr(operators, "batch_norm") else None  # noqa: SLF001


class HandedConv(nn.Module):
    """In the place of a convolution that the norm behind it computes: its parameters, and its input unchanged."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.weight = layer.weight
        self._own = (layer,)  # not a module of this one: its parameters would have two names

    @property
    def layer(self) -> Any:
        """The convolution, with the parameters as they are now."""
        layer = self._own[0]
        layer.weight = self.weight
        return layer.train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        return input

    def extra_repr(self) -> str:
        """The convolution, and who computes it."""
        return f"{self._own[0].extra_repr()}, computed with the norm behind it"

    def convolved(self, input: Tensor) -> Tensor:
        """The convolution by itself."""
        output: Tensor = self._own[0].plan(input, self.weight, None)
        return output

    def normed(self, norm: Any, input: Any) -> Tensor | None:
        """The convolution, ``norm`` and its activation, or None where they must be called one by one."""
        plan = self._own[0].plan
        problem = plan.problem
        if type(input) not in PLAIN or not norm.ready(input) or hooked((self,)) or not torch.is_grad_enabled():
            return None
        native, flat = plan.native(input)
        if native is None or input.dim() != problem.dim + 2 or input.shape[1] != problem.in_channels:
            return None
        tensors = input, self.weight, norm.weight, norm.bias
        if self.weight.dtype is not input.dtype or not plain((self.weight,)) or not self.weight.is_cpu:
            return None
        if input.numel() < 2 * input.shape[1] or not any(t is not None and t.requires_grad for t in tensors):
            return None
        output, mean, variance = _Normed.apply((plan, native, flat, norm), *tensors)
        norm.remember(output.numel() // output.shape[1], mean, variance)
        return output


def handed(layer: Any, norm: nn.Module) -> HandedConv | None:
    """What stands for a convolution that ``norm``, one of torch's, can take along; None where it cannot."""
    if type(layer) not in LAYERS or layer.bias is not None or _backward() is None:
        return None
    if any(getattr(layer, own, None) is not None for own in ("norm", "activation")):
        return None
    problem = layer.problem
    if not is_unpadded_pointwise(problem) or set(problem.stride) != {1} or problem.out_channels != norm.num_features:
        return None
    return HandedConv(layer)


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, how: tuple[Any, ...], input: Tensor, weight: Tensor, scale: Tensor | None, shift: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        plan, native, flat, norm = how
        ctx.how = plan, flat, norm.eps, norm.code(), norm.activation
        between = native.call(input, weight, None, flat)
        found = batch_norm(norm, between)
        ctx.mark_non_differentiable(*found[1:])
        ctx.save_for_backward(between, input, weight, scale, shift, *found[1:])
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (plan, flat, epsilon, code, activation), (grad, *_) = ctx.how, grads
        between, *tensors, mean, variance = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not plain((grad, *tensors)):

            def parts(input: Tensor, weight: Tensor, *own: Any) -> Tensor:
                return normed_by_parts(activation, epsilon, plan.portable(input, weight, None), *own[:2])

            return None, *through(parts, tensors, None, grad, needed, graph=torch.is_grad_enabled())
        input, weight, scale, shift = tensors
        wanted = int(needed[0]) + 2 * int(needed[1])
        gradients = _backward()(grad, between, input, weight, scale, shift, mean, variance, epsilon, code, flat, wanted)
        return None, *(
            gradient.to(input.dtype) if need else None for gradient, need in zip(gradients, needed, strict=True)
        )
