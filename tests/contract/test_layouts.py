# SPDX-License-Identifier: Apache-2.0
"""Where a tensor's elements lie in memory changes nothing but speed, and an output lies as ATen would lay it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contract.problems import CASES, OPERATORS, ROUNDED, assert_same, each, expected, halves, present, tracked, wide
from contract.test_gradients import gradients, weights_of

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
BESIDE = 37  # elements before and after a tensor: more than two vectors, and no multiple of one


def fenced(tensor):
    """The same elements in order, between two stretches of NaN that nobody may read, or read and multiply by zero."""
    room = tensor.new_full((tensor.numel() + 2 * BESIDE,), torch.nan)
    return room[BESIDE : BESIDE + tensor.numel()].view(tensor.shape).copy_(tensor)


def channels_last(tensor):
    """The channels innermost, where there are positions behind them: (N, L, C) in memory for one axis. Fenced."""
    if tensor.dim() < 3:
        return fenced(tensor)
    return fenced(tensor.movedim(1, -1)).movedim(-1, 1)


def strided(tensor):
    """Every second element of a tensor that is twice as long on every axis."""
    room = tensor.new_full([2 * size for size in tensor.shape], torch.nan)
    view = room[(slice(1, None, 2),) * tensor.dim()]
    return view.copy_(tensor)


def windowed(tensor):
    """A part of a tensor that has more on every axis but its channels, which lie innermost."""
    if tensor.dim() < 3:
        return strided(tensor)
    turned = tensor.movedim(1, -1)
    room = tensor.new_full([*[size + 2 for size in turned.shape[:-1]], turned.shape[-1]], torch.nan)
    return room[(slice(1, -1),) * (tensor.dim() - 1)].copy_(turned).movedim(-1, 1)


def turned(tensor):
    """The same elements with the axes in reverse order in memory, and something before the first."""
    room = tensor.new_full((tensor.numel() + 3,), torch.nan)[3:].view(tensor.shape[::-1])
    return room.permute(*reversed(range(tensor.dim()))).copy_(tensor)


def negated(tensor):
    """A view whose elements are stored with the other sign, as the imaginary part of a conjugate is."""
    if tensor.dtype == torch.bfloat16:  # which no complex number is made of
        return torch._neg_view(-tensor)
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


LAYOUTS = {
    "fenced": fenced,
    "channels_last": channels_last,
    "windowed": windowed,
    "strided": strided,
    "turned": turned,
    "negated": negated,
}


def check_layout(problem, plan_for, layout, dtype=torch.float64):
    """Values and gradients are those of contiguous tensors, and the tensors are left as they were.

    The gradient of the output lies in the same way.
    """
    lay = LAYOUTS[layout]
    tensors = halves(problem, dtype)
    laid = tuple(None if t is None else lay(t) for t in tensors)
    for tensor, other in zip(present(laid), present(tensors), strict=True):
        assert torch.equal(tensor, other), "the layout changed the values: the test is wrong"
    leaves, twins = [None if t is None else t.requires_grad_() for t in laid], tracked(halves(problem))
    output, want = plan_for(problem)(*leaves), expected(problem, twins)
    assert_same(problem, output, want)
    got = torch.autograd.grad(output, present(leaves), lay(weights_of(output)))
    for one, other in zip(got, gradients(want, present(twins)), strict=True):
        assert_same(problem, one, other, scale=output.numel())
    for tensor, other in zip(present(laid), present(tensors), strict=True):
        assert torch.equal(tensor, other), "a tensor was changed"


def one_number(tensor):
    """The first number everywhere."""
    return tensor[(slice(0, 1),) * tensor.dim()].expand(tensor.shape)


def one_row(tensor):
    """The first row of the last axis in all places of the others."""
    return tensor[(slice(0, 1),) * (tensor.dim() - 1)].expand(tensor.shape)


def pooled(tensor):
    """Each channel's first number at all its positions, as the gradient of a sum over positions is: channels inside."""
    if tensor.dim() < 3:
        return tensor
    first = tensor[(slice(None), slice(None), *[0] * (tensor.dim() - 2))].contiguous()
    return first[(..., *[None] * (tensor.dim() - 2))].expand(tensor.shape)


def check_expanded(problem, plan_for, dtype=torch.float64):
    """Tensors whose elements share memory, and gradients of the output whose elements do."""
    plan, drawn = plan_for(problem), halves(problem, dtype)
    for share in (one_number, one_row, pooled):
        for lay in (share, fenced, channels_last):
            tensors = [t if t is None else lay(t) for t in drawn]
            leaves, twins = [t if t is None else t.requires_grad_() for t in tensors], tracked(wide(tensors))
            output, want = plan(*leaves), expected(problem, twins)
            assert_same(problem, output, want)
            got = torch.autograd.grad(output, present(leaves), share(weights_of(output)))
            right = torch.autograd.grad(want, present(twins), share(weights_of(want)))
            for a, b in zip(got, right, strict=True):
                assert_same(problem, a, b, scale=3 * float(want.detach().abs().sum()))


def check_format(problem, plan_for):
    """A channels-last input gives a channels-last output where it does for ATen's own convolution of the kind.

    A compiled kernel does so for one axis too, where torch has no such format. Gradients lie as their tensors do.
    """
    tensors = [t if t is None else channels_last(t) for t in halves(problem, torch.float32)]
    plan = plan_for(problem)
    plain = plan(*halves(problem, torch.float32))
    assert plain.is_contiguous(), f"contiguous tensors give an output of strides {plain.stride()}"
    if plan._native is not None:
        leaves = [t if t is None else t.requires_grad_() for t in tensors]
        output = plan(*leaves)
        grad = torch.autograd.grad(output.sum(), leaves[0])[0]
        for name, tensor in (("output", output), ("gradient of the input", grad)):
            inner = tensor.movedim(1, -1)
            assert inner.is_contiguous(), f"the {name}, of strides {tensor.stride()}, is not channels-last"
    if problem.dim == 1:
        return
    own = (F.conv_transpose2d, F.conv_transpose3d) if problem.transposed else (F.conv2d, F.conv3d)
    kernel = torch.ones(problem.in_channels, problem.out_channels, *[1] * problem.dim)
    kernel = kernel if problem.transposed else kernel.transpose(0, 1)
    output, habit = plan(*tensors), own[problem.dim - 2](tensors[0], kernel.contiguous())
    form = LAST[problem.dim + 2]
    if habit.is_contiguous(memory_format=form) and not habit.is_contiguous():
        assert output.is_contiguous(memory_format=form), f"output of strides {output.stride()} is not channels-last"


@pytest.mark.pitfall(43)
@pytest.mark.parametrize("layout", LAYOUTS)
@each(CASES + ROUNDED + OPERATORS)
def test_layout(case, layout):
    check_layout(case.problem, case.plan_for, layout, case.dtype)


@pytest.mark.pitfall(43)
@each(CASES + ROUNDED)
def test_expanded(case):
    check_expanded(case.problem, case.plan_for, case.dtype)


@each(CASES)
def test_format(case):
    check_format(case.problem, case.plan_for)
