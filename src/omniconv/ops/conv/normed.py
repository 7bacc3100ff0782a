# SPDX-License-Identifier: Apache-2.0
"""A pointwise convolution and the batch norm behind it, in training: one step of autograd.

On the way back, what the norm gives the convolution is computed for some hundred positions at a time and read for both
gradients while it is in the cache. It is then never in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from omniconv.core.follow import hooked
from omniconv.core.native import PLAIN, mask, plain, through
from omniconv.core.normed import Told, normed_by_parts, tell

from . import is_unpadded_pointwise
from .layer import Conv1d, Conv2d, Conv3d, PointwiseConv1d, PointwiseConv2d, PointwiseConv3d

LAYERS = (Conv1d, Conv2d, Conv3d, PointwiseConv1d, PointwiseConv2d, PointwiseConv3d)


@cache
def _backward() -> Any:
    operators = torch.ops.omniconv
    return operators.pointwise_normed_backward.default._op if hasattr(operators, "batch_norm") else None  # noqa: SLF001


def telling(layer: Any) -> Callable[..., None] | None:
    """What is to be the ``tells`` of a layer: a convolution of one tap and no bias, with nothing behind it."""
    if type(layer) not in LAYERS or layer.bias is not None or _backward() is None:
        return None
    if any(getattr(layer, own, None) is not None for own in ("norm", "activation")):
        return None
    return _tell if is_unpadded_pointwise(layer.problem) and set(layer.problem.stride) == {1} else None


def _tell(layer: Any, input: Any, weight: Any, output: Any) -> None:
    if is_dynamo_compiling() or type(input) not in PLAIN or not output.requires_grad or hooked((layer,)):
        return
    native, flat = layer.plan.native(input)
    if native is not None and input.dtype is weight.dtype is output.dtype and plain((input, weight, output)):
        tell(output, _Told(output, input, weight, layer.plan, flat))


class _Told(Told):
    def __init__(self, output: Tensor, input: Tensor, weight: Tensor, plan: Any, flat: Any) -> None:
        super().__init__(output, input, weight)
        self.how = plan, flat

    def normed(self, norm: Any, output: Tensor) -> Tensor:
        found: Tensor = _Normed.apply((*self.how, norm, output.detach()), *self.sources, norm.weight, norm.bias)
        return found


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, how: tuple[Any, ...], input: Tensor, weight: Tensor, scale: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        plan, flat, norm, between = how
        output, mean, variance = norm.step(between)
        ctx.how = plan, flat, norm.eps, norm.code(), norm.activation
        ctx.save_for_backward(between, input, weight, scale, shift, mean, variance)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (plan, flat, epsilon, code, activation), (grad,) = ctx.how, grads
        between, *tensors, mean, variance = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not plain((grad, *tensors)):

            def parts(input: Tensor, weight: Tensor, *own: Any) -> Tensor:
                return normed_by_parts(activation, epsilon, plan.portable(input, weight, None), *own[:2])

            return None, *through(parts, tensors, None, grad, needed, graph=torch.is_grad_enabled())
        input, weight, scale, shift = tensors
        given = grad, between, input, weight, scale, shift, mean, variance, epsilon, code, flat, mask(needed[:2])
        return None, *(
            gradient.to(input.dtype) if need else None
            for gradient, need in zip(_backward()(*given), needed, strict=True)
        )
