# SPDX-License-Identifier: Apache-2.0
"""Kernels that compute the formula and break a promise all the same: of dtype, memory, gradient, trace or error."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import torch

from contract.broken import kernel
from contract.problems import halves, present
from contract.test_compile import check_compiles
from contract.test_dtypes import check_autocast, check_dtype, check_gradient_dtype
from contract.test_export_transforms import check_export, check_functional_gradients, check_symbolic_trace, check_vmap
from contract.test_gradients import (
    check_batched_gradients,
    check_change_is_noticed,
    check_forward_gradients,
    check_gradcheck,
    check_gradgradcheck,
    check_gradients,
    check_gradients_apart,
    check_second_gradients,
    entangled,
)
from contract.test_layouts import check_format, check_layout
from contract.test_shapes import check_without_data
from contract.test_values import check_empty_batch, check_leaves_inputs


@kernel(check_leaves_inputs, partial(check_layout, layout="strided"), raises=(AssertionError, RuntimeError))
def changes_its_input(plan, input, *rest):
    output = plan(input, *rest)
    with torch.no_grad():
        input.mul_(2)
    return output


@kernel(check_empty_batch, raises=RuntimeError)
def divides_the_positions_by_an_empty_batch(plan, input, *rest):
    return plan(input.reshape(input.shape[0], -1).view(input.shape), *rest)


@kernel(
    partial(check_layout, layout="strided"),
    partial(check_layout, layout="turned"),
    partial(check_layout, layout="channels_last"),
    applies=lambda p: p.dim > 1 and p.in_channels > 1,
)
def ignores_the_strides_of_its_input(plan, input, *rest):
    plain = torch.empty(input.shape, device="meta").stride()
    return plan(torch.as_strided(input, input.shape, plain), *rest)


@kernel(partial(check_layout, layout="negated"))
def ignores_the_sign_bit_of_its_input(plan, input, *rest):
    return plan(-input if input.is_neg() else input, *rest)


@kernel(check_format, applies=lambda p: p.dim > 1 and p.out_channels > 1)
def leaves_its_output_turned_round(plan, *tensors):
    output = plan(*tensors)
    return output.transpose(-1, -2).contiguous().transpose(-1, -2)


@kernel(check_format, applies=lambda p: p.dim > 1 and p.out_channels > 1 and p.in_channels > 1)
def forgets_channels_last(plan, *tensors):
    return plan(*tensors).contiguous()


@kernel(check_gradients)
def detaches_its_input(plan, input, *rest):
    return plan(input.detach(), *rest)


@kernel(partial(check_layout, layout="fenced"), partial(check_layout, layout="windowed"))
def multiplies_what_lies_behind_its_input_by_zero(plan, input, *rest):
    end = input.storage_offset() + 1 + sum((n - 1) * step for n, step in zip(input.shape, input.stride(), strict=True))
    held = input.untyped_storage().nbytes() // input.element_size()
    behind = torch.as_strided(input.detach(), (min(held - end, 1),), (1,), end)
    return plan(input, *rest) + 0 * behind.sum()


def channels_inside(tensor):
    return tensor.numel() > 0 and tensor.stride(1) == 1 and not tensor.is_contiguous()


@kernel(partial(check_layout, layout="channels_last"), applies=lambda p: p.in_channels > 1)
def is_wrong_only_in_channels_last(plan, input, *rest):
    return plan(input, *rest) + channels_inside(input)


class Turned(torch.autograd.Function):
    """The identity with a gradient that is wrong where the channels of what it is given lie inside."""

    @staticmethod
    def forward(_, value):
        return value.clone()

    @staticmethod
    def backward(_, grad):
        return grad + channels_inside(grad)


@kernel(partial(check_layout, layout="channels_last"), applies=lambda p: p.out_channels > 1)
def differentiates_channels_last_wrongly(plan, *tensors):
    return Turned.apply(plan(*tensors))


@kernel(check_gradients_apart)
def follows_its_input_alone(plan, input, *rest):
    return plan(input, *rest) if input.requires_grad else plan(input, *[t if t is None else t.detach() for t in rest])


@kernel(check_gradients_apart)
def records_what_nobody_asked_for(plan, *tensors):
    return plan(*tensors).requires_grad_()


@kernel(check_gradients)
def detaches_its_weights(plan, input, *rest):
    return plan(input, *[None if t is None else t.detach() for t in rest])


class Doubled(torch.autograd.Function):
    """The identity with a gradient twice as large."""

    @staticmethod
    def forward(_, value):
        return value.clone()

    @staticmethod
    def backward(_, grad):
        return 2 * grad


@kernel(check_gradients, check_gradcheck, partial(check_gradient_dtype, dtype=torch.float32))
def doubles_its_gradients(plan, *tensors):
    return Doubled.apply(plan(*tensors))


class OnceOnly(torch.autograd.Function):
    """A convolution whose gradient is computed outside autograd."""

    @staticmethod
    def forward(context, plan, *tensors):
        context.plan = plan
        context.save_for_backward(*tensors)
        return plan(*tensors)

    @staticmethod
    def backward(context, grad):
        leaves = [None if t is None else t.detach().requires_grad_() for t in context.saved_tensors]
        with torch.enable_grad():
            output = context.plan(*leaves)
        left = iter(torch.autograd.grad(output, [t for t in leaves if t is not None], grad.detach()))
        return None, *[None if t is None else next(left) for t in leaves]


class Unsaved(OnceOnly):
    """A convolution that keeps its tensors where autograd does not see that they change."""

    @staticmethod
    def forward(context, plan, *tensors):
        output = OnceOnly.forward(context, plan, *tensors)
        context.tensors = tensors
        return output

    @staticmethod
    def backward(context, grad):
        return OnceOnly.backward(SimpleNamespace(plan=context.plan, saved_tensors=context.tensors), grad)


@kernel(check_change_is_noticed, applies=lambda p: len(present(halves(p))) > 1)
def does_not_notice_that_its_input_changed(plan, *tensors):
    return Unsaved.apply(plan, *tensors)


class Followed(OnceOnly):
    """A convolution whose gradient has gradients that go on into what made its tensors."""

    @staticmethod
    def backward(context, grad):
        tensors = context.saved_tensors
        with torch.enable_grad():
            output = context.plan(*tensors)
        found = torch.autograd.grad(output, present(tensors), grad, create_graph=True)
        left = iter(found)
        return None, *[None if t is None else next(left) for t in tensors]


@kernel(partial(check_second_gradients, mixed=entangled), applies=lambda p: len(present(halves(p))) > 1)
def differentiates_what_its_weights_were_made_from(plan, *tensors):
    return Followed.apply(plan, *tensors)


class Single(OnceOnly):
    """A convolution whose gradient looks at the numbers in it."""

    @staticmethod
    def backward(context, grad):
        return OnceOnly.backward(context, grad if grad.sum().item() else grad.clone())


@kernel(check_batched_gradients)
def takes_one_gradient_at_a_time(plan, *tensors):
    return Single.apply(plan, *tensors)


@kernel(check_second_gradients, check_gradgradcheck, check_functional_gradients)
def loses_the_second_gradient(plan, *tensors):
    return OnceOnly.apply(plan, *tensors)


@kernel(check_gradcheck, check_forward_gradients)
def has_no_forward_gradient(plan, *tensors):
    return OnceOnly.apply(plan, *tensors)


@kernel(partial(check_dtype, dtype=torch.bfloat16), partial(check_dtype, dtype=torch.float16))
def returns_float32_for_fewer_bits(plan, *tensors):
    output = plan(*tensors)
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


class Coarse(torch.autograd.Function):
    """The identity with a gradient rounded to eight bits."""

    @staticmethod
    def forward(_, value):
        return value.clone()

    @staticmethod
    def backward(_, grad):
        return grad.bfloat16().to(grad.dtype)


@kernel(partial(check_gradient_dtype, dtype=torch.float32))
def rounds_its_gradients(plan, *tensors):
    return plan(*[None if t is None else Coarse.apply(t) for t in tensors])


@kernel(check_autocast)
def ignores_autocast(plan, *tensors):
    with torch.autocast("cpu", enabled=False):
        return plan(*[t if t is None else t.float() for t in tensors])


@kernel(check_without_data)
def computes_on_the_processor_wherever_its_input_lies(plan, *tensors):
    output = plan(*tensors)
    return torch.zeros(output.shape, dtype=output.dtype) + (0 if output.device.type == "meta" else output)


@kernel(check_compiles, once=True)
def asks_for_the_sum_of_its_input(plan, input, *rest):
    output = plan(input, *rest)
    return output if input.sum() > 0 else output.clone()


@kernel(check_compiles, check_export, once=True)
def is_made_for_one_batch(plan, input, *rest):
    output = plan(input, *rest)
    return output if input.shape[0] == 2 else output.clone()


@kernel(check_symbolic_trace, once=True)
def writes_its_sizes_down(plan, *tensors):
    output = plan(*tensors)
    return output.new_zeros([int(size) for size in output.shape]) + output


@kernel(check_vmap)
def reads_a_number_out_of_its_input(plan, input, *rest):
    return plan(input, *rest) + 0 * input.sum().item()
