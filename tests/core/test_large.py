# SPDX-License-Identifier: Apache-2.0
"""Tensors of more than 2³¹ elements are indexed right: at both ends, across the boundary, and in every gradient."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from omniconv.core.library import absent
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan

pytestmark = [pytest.mark.large, pytest.mark.skipif(bool(absent()), reason=absent())]
PIECE = 1 << 26


def filled(shape, *, channels_inner):
    """Small integers in bfloat16 that repeat every 1021 elements in memory."""
    tensor = torch.empty(shape, dtype=torch.bfloat16)
    pattern = (torch.arange(1021) * 7 % 11 - 5).bfloat16()
    whole = pattern.repeat(PIECE // 1021 + 2)
    flat = tensor.view(-1)
    for start in range(0, flat.numel(), PIECE):
        piece = flat[start : start + PIECE]
        piece.copy_(whole[start % 1021 :][: piece.numel()])
    return tensor.view(shape[0], shape[2], shape[1]).transpose(1, 2) if channels_inner else tensor


def places(channels, length):
    """Where to look on an axis: both ends, and where elements or bytes pass 2³¹ or 2³² in either layout."""
    around = {place for bound in (2**30, 2**31, 2**32) for place in (bound // channels, bound % length)}
    return sorted({min(max(place - 32, 0), length - 64) for place in (0, length // 2, length, *around)})


@pytest.mark.parametrize("channels_inner", [False, True], ids=["in order", "channels inside"])
@pytest.mark.parametrize(("channels", "length"), [(8, 2**28 + 77), (2, 2**30 + 77)], ids=["8 channels", "2 channels"])
def test_every_element_is_reached(channels, length, channels_inner):
    problem = ConvProblem.parse(f"conv:n1_c{channels}_o{channels}_i{length}_k3_g{channels}_pad1")
    assert problem.in_channels * length > 2**31
    plan = Plan(problem)
    native, flat = plan._native, plan._packed(())
    torch.manual_seed(0)
    weight = torch.randint(-2, 3, (channels, 1, 3)).bfloat16()
    input = filled((1, channels, length), channels_inner=channels_inner)
    output = native.raw(input, weight, None, flat)
    assert output.stride() == input.stride()
    check_windows(output, input, weight)
    del output

    # The gradient of a few outputs alone: sums of few products, which bfloat16 does not round.
    grad = torch.zeros_like(input)
    at = torch.tensor([0, 5, length // 3, length // 2 + 1, length - 2, length - 1])
    grad[:, :, at] = 1
    _, of_weight, _ = native.raw_backward(grad, input, weight, None, flat, 2)
    for tap in range(3):
        met = at + tap - 1
        inside = (met >= 0) & (met < length)
        assert torch.equal(of_weight[:, 0, tap].double(), input[0, :, met[inside]].double().sum(1))
    del input
    of_input, *_ = native.raw_backward(grad, grad, weight, None, flat, 1)
    assert of_input.stride() == grad.stride()
    check_windows(of_input, grad, weight.flip(-1))


def check_windows(output, input, weight):
    """The output of a convolution of three taps, around each place, is that of the input around it."""
    length = input.shape[-1]
    for start in places(weight.shape[0], length):
        first, end = max(start - 1, 0), min(start + 65, length)
        part = torch.nn.functional.pad(input[:, :, first:end].double(), (int(first == 0), int(end == length)))
        want = torch.nn.functional.conv1d(part, weight.double(), groups=weight.shape[0])
        begin = start if start == 0 else first + 1
        assert torch.equal(output[:, :, begin : begin + want.shape[-1]].double(), want.bfloat16().double()), start


# 2³¹ elements in 16 channels, and so few outputs that the taps of each can be looked up one by one.
DEFORMED = "deformable:n1_c16_o4_i8197x16385_k3x3_s273x910_pad1_head=0_mask=1_offset-groups=2"


def deformed():
    """The plan, and its offset, weight and mask: of halves and whole numbers, which bfloat16 holds and sums exactly."""
    problem = ConvProblem.parse(DEFORMED)
    assert problem.in_channels * math.prod(problem.in_size) > 2**31
    assert problem.out_size == (31, 19)
    torch.manual_seed(0)
    offset = torch.randint(-9, 10, (1, 2 * 2 * 9, *problem.out_size)) / 2
    mask, weight = torch.randint(-1, 2, (1, 2 * 9, *problem.out_size)), torch.randint(-1, 2, (4, 16, 3, 3))
    return Plan(problem), offset, weight.double(), mask.double()


def corners(problem, offset):
    """For each corner of a sample: where it lies, (2, group, tap, *out), whether it is inside, and its weight."""
    at = offset.unflatten(1, (2, 9, 2)).squeeze(0).movedim(2, 0)
    for axis in range(2):
        first = torch.arange(problem.out_size[axis]) * problem.stride[axis] - 1
        tap = torch.arange(9) // 3 if axis == 0 else torch.arange(9) % 3
        at[axis] += first.view(-1, *[1] * (1 - axis)) + tap.view(-1, 1, 1)
    low = at.detach().floor()
    sizes = torch.tensor(problem.in_size).view(2, 1, 1, 1, 1)
    for corner in product((0, 1), repeat=2):
        place = low.long() + torch.tensor(corner).view(2, 1, 1, 1, 1)
        sides = [(at - low)[axis] if higher else (1 - (at - low))[axis] for axis, higher in enumerate(corner)]
        yield place, ((place >= 0) & (place < sizes)).all(0), sides[0] * sides[1]


@pytest.mark.parametrize("channels_inner", [False, True], ids=["in order", "channels inside"])
def test_deformed_taps_reach_every_element(channels_inner):
    plan, *given = deformed()
    native, flat, problem = plan._native, plan._packed(()), plan.problem
    input = filled((1, 16, math.prod(problem.in_size)), channels_inner=channels_inner).unflatten(2, problem.in_size)
    offset, weight, mask = (tensor.double().requires_grad_() for tensor in given)
    samples = 0
    for (y, x), inside, near in corners(problem, offset.clone()):
        found = input[0][:, (y * inside)[None], (x * inside)[None]].double().squeeze(1)
        own = torch.stack([found[channel, channel // 8] for channel in range(16)])
        samples = samples + own * (inside * near).repeat_interleave(8, 0)
    weighed = samples * mask.view(2, 9, *problem.out_size).repeat_interleave(8, 0)
    want = torch.einsum("ckhw,ock->ohw", weighed, weight.flatten(2))[None]
    assert 0 < want.detach().abs().max() < 2**16
    narrow = [tensor.detach().bfloat16() for tensor in (offset, weight, mask)]
    output = native.raw(input, *narrow[:2], None, narrow[2], flat)
    assert torch.equal(output, want.detach().bfloat16())
    grad = torch.randint(-1, 2, want.shape).double()
    wanted = torch.autograd.grad(want, (offset, weight, mask), grad)
    _, of_offset, of_weight, _, of_mask = native.raw_backward(
        grad.bfloat16(), input, *narrow[:2], None, narrow[2], flat, 2 | 4 | 16
    )
    for mine, right in zip((of_offset, of_weight, of_mask), wanted, strict=True):
        assert torch.equal(mine, right.bfloat16())


def test_deformed_taps_spread_gradients_to_every_element():
    """In float32 the gradient of the input alone is 8.6 GB; the input itself is not read, and takes no memory."""
    plan, offset, weight, mask = deformed()
    native, flat, problem = plan._native, plan._packed(()), plan.problem
    height, width = problem.in_size
    input = torch.empty(1, height, width, 16).movedim(-1, 1)
    grad = torch.randint(-1, 2, (1, 4, *problem.out_size)).double()
    given = [tensor.float() for tensor in (grad, offset, weight, mask)]
    of_input, *_ = native.raw_backward(given[0], input, *given[1:3], None, given[3], flat, 1)
    assert of_input.stride() == input.stride()
    # (channel, tap, *out), then the places that it is added to
    of_samples = torch.einsum("ohw,ock->ckhw", grad[0], weight.flatten(2))
    of_samples *= mask.view(2, 9, *problem.out_size).repeat_interleave(8, 0)
    places, parts = [], []
    for (y, x), inside, near in corners(problem, offset.double()):
        places.append(((y * width + x) * inside).repeat_interleave(8, 0) * 16 + torch.arange(16).view(16, 1, 1, 1))
        parts.append(of_samples * (inside * near).repeat_interleave(8, 0))
    places, back = torch.cat(places).flatten().unique(return_inverse=True)
    sums = torch.zeros(len(places), dtype=torch.float64).index_add_(0, back, torch.cat(parts).flatten())
    flat_memory = of_input.movedim(1, -1).view(-1)
    assert places.max() > 2**31
    assert torch.equal(flat_memory[places].double(), sums)
    assert sum(int(piece.count_nonzero()) for piece in flat_memory.split(PIECE)) == int(sums.count_nonzero())
