# SPDX-License-Identifier: Apache-2.0
"""A convolution, what is added to it and its activation, as one step of autograd.

ReLU, ReLU6 and a sum are computed with the convolution or where its output lies. On the way back one pass goes through
the activation and adds up the gradient of the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from .follow import NO_NORM, Part, activated_beside, activation_code, follow, follow_at_once, hooked
from .native import mask, plain, through, watching, where
from .observe import current_listener
from .register import Plan

RELU6 = 2  # up to this number the result of an activation is kept, beyond it what that was computed from

AtOnce = Callable[..., Tensor]  # of the tensors, what is added, and an activation's number


@cache
def _back() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.ops.omniconv.activation_backward.default._op  # noqa: SLF001


def activation_backward(grad: Tensor, kept: Tensor, code: int, totals: bool) -> tuple[Tensor, Tensor]:
    """The gradient of what an activation was computed from, and its totals over each channel where they are asked for.

    ``kept`` is what it was computed from, or up to ``RELU6`` its result.
    """
    return _back()(grad, kept, code, totals)


def computed(
    plan: Plan,
    tensors: Sequence[Tensor | None],
    norm: nn.Module | None,
    residual: Tensor | None,
    activation: Part,
    at_once: AtOnce | None = None,
) -> Tensor:
    """``activation(norm(plan(*tensors)) + residual)``, called where no inference call computed all of it.

    ``at_once`` computes it without a norm, of checked tensors, in one call, where there is such a call.
    """
    output = activated(plan, tensors, residual, activation, at_once) if norm is None else None
    return follow(plan(*tensors), norm, residual, activation) if output is None else output


def activated(
    plan: Plan, tensors: Sequence[Tensor | None], residual: Tensor | None, activation: Part, at_once: AtOnce | None
) -> Tensor | None:
    """The same without a norm, recorded as one step; None where the parts must be called one by one."""
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
    if current_listener() is not None or not plain(given) or torch.is_autocast_enabled("cpu"):
        return None
    if not any(t is not None and t.requires_grad for t in given):
        return None
    if any(
        t is not None and (t.dtype is not input.dtype or t.layout is not torch.strided or not t.is_cpu) for t in given
    ):
        return None
    try:
        return _Activated.apply((native, plan, flat, activation, code, at_once), residual, *tensors)
    except (RuntimeError, TypeError):
        plan.check(*tensors)  # says what is wrong better than a kernel can
        raise


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: tuple[Any, ...], residual: Tensor | None, *tensors: Any) -> Tensor:
        native, plan, flat, activation, code, at_once = ctx.how = how
        kept = None
        if code > RELU6:
            kept = native.call(*tensors, flat)
            output: Tensor = activation(kept) if watching() else activated_beside(kept, code)
        elif at_once is not None:
            output = at_once(*tensors, residual, code)
        else:
            output = native.call(*tensors, flat)
            if watching():  # who sees operators run may keep what they return
                output = output if residual is None else output + residual
                output = activation(output) if code else output
            else:
                follow_at_once(output, NO_NORM, residual, code)
        at, saved = plan.family.tensor_names.index("bias"), [*tensors]
        ctx.bias = (at, tensors[at] if code <= RELU6 else None)  # no gradient depends on its numbers, which may change
        if code <= RELU6:
            saved[at] = None
        ctx.save_for_backward(output if 0 < code <= RELU6 else kept, *saved)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (native, plan, flat, activation, code, _), (grad,), (bias, its) = ctx.how, grads, ctx.bias
        kept, *tensors = ctx.saved_tensors
        tensors[bias] = its if tensors[bias] is None else tensors[bias]
        _, needs_residual, *needed = ctx.needs_input_grad
        if torch.is_grad_enabled() or not plain((grad, kept, *tensors)):
            found = by_parts(plan.portable, activation, code, kept, tensors, grad, (needs_residual, *needed))
            return None, *found
        asked, totals = [*needed], None
        if code:
            grad, totals = activation_backward(grad, kept, code, needed[bias])
            asked[bias] = False
        gradients: list[Tensor | None] = [None] * len(needed)
        if any(asked):
            gradients = where(native.call_backward(grad, *tensors, flat, mask(asked)), asked)
        if code and needed[bias]:
            gradients[bias] = totals
        return None, grad if needs_residual else None, *gradients


def by_parts(
    portable: Callable[..., Tensor],
    activation: Any,
    code: int,
    kept: Any,
    tensors: Sequence[Tensor | None],
    grad: Tensor,
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of the residual and the tensors through ATen, with a graph of their own where one is asked for.

    ``portable`` is what is before the sum and the activation, made of ATen calls.
    """
    if 0 < code <= RELU6:
        grad = grad.masked_fill((kept <= 0) | (kept >= 6) if code == RELU6 else kept <= 0, 0)

    def convolved(*arguments: Any) -> Tensor:
        output = portable(*arguments[:-1])
        return activation(output) if code > RELU6 else output

    asked = needed[1:]
    found: list[Tensor | None] = [None] * len(tensors)
    if any(asked):
        found = through(convolved, tensors, None, grad, asked, graph=torch.is_grad_enabled())
    return [grad if needed[0] else None, *found]
