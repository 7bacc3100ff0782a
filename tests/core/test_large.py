# SPDX-License-Identifier: Apache-2.0
"""Tensors of more than 2³¹ elements are indexed right: at both ends, across the boundary, and in every gradient."""

from __future__ import annotations

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
