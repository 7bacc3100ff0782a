# SPDX-License-Identifier: Apache-2.0
"""Where a tensor's elements lie in memory changes nothing but speed, and an output lies as ATen would lay it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contract.problems import CASES, assert_same, each, expected, halves, present, tracked
from contract.test_gradients import gradients

LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(tensor):
    return tensor.contiguous(memory_format=LAST.get(tensor.dim(), torch.contiguous_format))


def strided(tensor):
    """Every second element of a tensor that is twice as long on every axis."""
    room = tensor.new_full([2 * size for size in tensor.shape], 99.0)
    view = room[(slice(1, None, 2),) * tensor.dim()]
    return view.copy_(tensor)


def turned(tensor):
    """The same elements with the axes in reverse order in memory, and something before the first."""
    room = tensor.new_full((tensor.numel() + 3,), 99.0)[3:].view(tensor.shape[::-1])
    return room.permute(*reversed(range(tensor.dim()))).copy_(tensor)


def negated(tensor):
    """A view whose elements are stored with the other sign, as the imaginary part of a conjugate is."""
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


LAYOUTS = {"channels_last": channels_last, "strided": strided, "turned": turned, "negated": negated}


def check_layout(problem, plan_for, layout):
    """Values and gradients are those of contiguous tensors, and the tensors are left as they were."""
    tensors = halves(problem)
    laid = tuple(None if t is None else LAYOUTS[layout](t) for t in tensors)
    for tensor, other in zip(present(laid), present(tensors), strict=True):
        assert torch.equal(tensor, other), "the layout changed the values: the test is wrong"
    leaves, twins = [None if t is None else t.requires_grad_() for t in laid], tracked(tensors)
    output, want = plan_for(problem)(*leaves), expected(problem, twins)
    assert_same(problem, output, want)
    for one, other in zip(gradients(output, present(leaves)), gradients(want, present(twins)), strict=True):
        assert_same(problem, one, other)
    for tensor, other in zip(present(laid), present(tensors), strict=True):
        assert torch.equal(tensor, other), "a tensor was changed"


def check_expanded(problem, plan_for):
    """Tensors whose elements share memory: one number for all positions, then one sample for the whole batch."""
    for keep in (0, 1):
        tensors = [t if t is None else t[(slice(0, 1),) * (t.dim() - keep)].expand(t.shape) for t in halves(problem)]
        assert_same(problem, plan_for(problem)(*tensors), expected(problem, tensors))
        leaves, twins = tracked(tensors), tracked(tensors)
        output, want = plan_for(problem)(*leaves), expected(problem, twins)
        one = torch.ones((), dtype=torch.float64)
        got = torch.autograd.grad(output, present(leaves), one.expand_as(output))
        for a, b in zip(got, torch.autograd.grad(want, present(twins), one.expand_as(want)), strict=True):
            assert_same(problem, a, b, scale=float(want.detach().abs().sum()))


def check_format(problem, plan_for):
    """A channels-last input gives a channels-last output where it does for ATen's own convolution of the kind."""
    if problem.dim == 1:
        return
    tensors = [t if t is None else channels_last(t) for t in halves(problem, torch.float32)]
    own = (F.conv_transpose2d, F.conv_transpose3d) if problem.transposed else (F.conv2d, F.conv3d)
    kernel = torch.ones(problem.in_channels, problem.out_channels, *[1] * problem.dim)
    kernel = kernel if problem.transposed else kernel.transpose(0, 1)
    output, habit = plan_for(problem)(*tensors), own[problem.dim - 2](tensors[0], kernel.contiguous())
    form = LAST[problem.dim + 2]
    if habit.is_contiguous(memory_format=form) and not habit.is_contiguous():
        assert output.is_contiguous(memory_format=form), f"output of strides {output.stride()} is not channels-last"
    plain = plan_for(problem)(*halves(problem, torch.float32))
    assert plain.is_contiguous(), f"contiguous tensors give an output of strides {plain.stride()}"


@pytest.mark.pitfall(43)
@pytest.mark.parametrize("layout", LAYOUTS)
@each(CASES)
def test_layout(case, layout):
    check_layout(case.problem, case.plan_for, layout)


@pytest.mark.pitfall(43)
@each(CASES)
def test_expanded(case):
    check_expanded(case.problem, case.plan_for)


@each(CASES)
def test_format(case):
    check_format(case.problem, case.plan_for)
