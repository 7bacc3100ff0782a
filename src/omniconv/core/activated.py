# SPDX-License-Identifier: Apache-2.0
"""A convolution, what is added to it and its activation, as autograd records them together.

Apart, each keeps and passes a tensor as large as the output. Together the output is activated where it lies, and on
the way back one pass goes through the activation and adds up the gradient of the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from .follow import NO_NORM, Part, activation_code, follow, follow_at_once, hooked
from .native import plain, watching
from .observe import current_listener
from .register import Plan

RELU, RELU6 = 1, 2  # the highest numbers of activations whose results are kept, not what they were computed from

AtOnce = Callable[..., Tensor]  # of the tensors, what is added, and an activation's number


@cache
def _back() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.ops.omniconv.activation_backward.default._op  # noqa: SLF001


def pointwise_at_once(
    flat: tuple[int, ...], input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, code: int
) -> Tensor:
    """A pointwise convolution with what follows it, of weights that will not come again."""
    numbers = (*flat, code)
    call = torch.ops.omniconv.pointwise_followed.default._op  # noqa: SLF001
    return call(input, weight, None, bias, *NO_NORM, residual, numbers)


def computed(
    plan: Plan,
    tensors: Sequence[Tensor | None],
    norm: nn.Module | None,
    residual: Tensor | None,
    activation: Part,
    at_once: AtOnce | None = None,
) -> Tensor:
    """``activation(norm(plan(*tensors)) + residual)``, where nothing computes all of it without gradients.

    ``at_once`` computes it without a norm, of checked tensors, in one call, where there is such a call.
    """
    output = activated(plan, tensors, residual, activation, at_once) if norm is None else None
    return follow(plan(*tensors), norm, residual, activation) if output is None else output


def activated(
    plan: Plan, tensors: Sequence[Tensor | None], residual: Tensor | None, activation: Part, at_once: AtOnce | None
) -> Tensor | None:
    """The same without a norm, for a later backward pass; or None where that is of the parts."""
    input: Any = tensors[0]
    if is_dynamo_compiling() or not torch.is_grad_enabled():
        return None
    code, given = activation_code(activation), (*tensors, residual)
    if code is None or (not code and residual is None) or hooked((activation,)):
        return None
    if code > RELU6 and (residual is not None or getattr(activation, "inplace", False)):
        return None
    native, flat = plan.native(input)
    if native is None or flat is None or input.shape[1] != plan.problem.in_channels:
        return None
    if current_listener() is not None or not plain(given) or watching() or torch.is_autocast_enabled("cpu"):
        return None
    if not any(t is not None and t.requires_grad for t in given):
        return None
    if any(t is not None and (t.dtype is not input.dtype or not t.is_cpu) for t in given):
        return None
    return _Activated.apply((native, plan, flat, activation, code, at_once), residual, *tensors)


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: tuple[Any, ...], residual: Tensor | None, *tensors: Any) -> Tensor:
        native, _, flat, activation, code, at_once = ctx.how = how
        kept = None
        if code > RELU6:
            kept = native.call(*tensors, flat)
            output: Tensor = activation(kept)
        elif at_once is not None:
            output = at_once(*tensors, residual, code)
        else:
            output = native.call(*tensors, flat)
            follow_at_once(output, NO_NORM, residual, code)
        ctx.save_for_backward(output if 0 < code <= RELU6 else kept, *tensors)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        native, plan, flat, _, code, _ = ctx.how
        kept, *tensors = ctx.saved_tensors
        _, needs_residual, *needed = ctx.needs_input_grad
        if torch.is_grad_enabled() or not plain((*grads, kept, *tensors)):
            return None, *_by_parts(ctx.how, kept, tensors, grads[0], ctx.needs_input_grad[1:])
        grad, bias, totals = grads[0], plan.family.tensor_names.index("bias"), None
        asked = sum(1 << at for at, need in enumerate(needed) if need)
        if code:
            grad, totals = _back()(grad, kept, code, needed[bias])
            asked &= ~(1 << bias)
        found = native.call_backward(grad, *tensors, flat, asked) if asked else tensors
        gradients = [one if asked >> at & 1 else None for at, one in enumerate(found)]
        if code and needed[bias]:
            gradients[bias] = totals
        return None, grad if needs_residual else None, *gradients


def _by_parts(
    how: tuple[Any, ...], kept: Any, tensors: Sequence[Tensor | None], grad: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """The gradients through ATen, with gradients of their own where a graph is asked for."""
    _, plan, _, activation, code, _ = how
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        own: list[Any] = [t if t is None else t.view_as(t) for t in tensors]
        output = plan.portable(*own)
        if code > RELU6:
            (grad,) = torch.autograd.grad(activation(output), output, grad, create_graph=graph)
        elif code:
            flat = (kept <= 0) | (kept >= 6) if code == RELU6 else kept <= 0
            grad = grad.masked_fill(flat, 0)
        leaves = [t for t, need in zip(own, needed[1:], strict=True) if need]
        found = iter(torch.autograd.grad(output, leaves, grad, create_graph=graph) if leaves else ())
    return [grad if needed[0] else None, *(next(found) if need else None for need in needed[1:])]
