# SPDX-License-Identifier: Apache-2.0
"""Kernels that compute the formula and break a promise all the same: of dtype, memory, gradient, trace or error."""

from __future__ import annotations

from functools import partial

import torch

from contract.broken import kernel
from contract.test_compile import check_compiles
from contract.test_dtypes import check_autocast, check_dtype, check_gradient_dtype
from contract.test_export_transforms import check_export, check_functional_gradients, check_symbolic_trace, check_vmap
from contract.test_gradients import check_gradcheck, check_gradients, check_second_gradients
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


@kernel(check_second_gradients, check_functional_gradients)
def loses_the_second_gradient(plan, *tensors):
    return OnceOnly.apply(plan, *tensors)


@kernel(check_gradcheck)
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
