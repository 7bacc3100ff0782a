# SPDX-License-Identifier: Apache-2.0
"""Pointwise, fused and dynamic kernels on tensors of more than 2³¹ elements: windows at both ends and boundaries."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from core.test_large import filled, places
from omniconv.core.library import absent
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan

pytestmark = [pytest.mark.large, pytest.mark.skipif(bool(absent()), reason=absent())]
CHANNELS, LENGTH = 8, 2**28 + 77
HALO = 2  # positions that a window reads beside its own
each_layout = pytest.mark.parametrize("channels_inner", [False, True], ids=["in order", "channels inside"])


def compiled(text):
    """The operators of a problem of this length, and the numbers that they take."""
    plan = Plan(ConvProblem.parse(text.format(c=CHANNELS, i=LENGTH)))
    assert CHANNELS * LENGTH > 2**31
    return plan._native, plan._packed(())


def whole(*shape, most=2):
    return torch.randint(-most, most + 1, shape).bfloat16()


def check(output, compute, *inputs):
    """Around each place the output is what ``compute`` makes of the inputs around it, which are zero outside."""
    length = output.shape[-1]
    for start in places(output.shape[1], length):
        first, end = start - HALO, start + 64 + HALO
        ends = (max(-first, 0), max(end - length, 0))
        parts = [F.pad(one[..., max(first, 0) : min(end, length)].double(), ends) for one in inputs]
        outside = torch.ones(1, 1, 64 + 2 * HALO, dtype=torch.bool)
        outside[..., ends[0] : outside.shape[-1] - ends[1]] = False
        want = compute(*parts, outside)[..., HALO:-HALO]
        assert torch.equal(output[..., start : start + 64].double(), want.bfloat16().double()), start


def summed(input, weight):
    return F.conv1d(input, weight.double())


def tapped(input, taps):
    return F.conv1d(input, taps.double(), padding=1, groups=CHANNELS)


@each_layout
def test_pointwise(channels_inner):
    native, flat = compiled("conv:n1_c{c}_o{c}_i{i}_k1")
    torch.manual_seed(0)
    weight = whole(CHANNELS, CHANNELS, 1)
    input = filled((1, CHANNELS, LENGTH), channels_inner=channels_inner)
    output = native.raw(input, weight, None, flat)
    assert output.stride() == input.stride()
    check(output, lambda part, _: summed(part, weight), input)

    # What follows another library's, in place; then the gradients of a few outputs alone.
    torch.ops.omniconv.follow_(output, [], 0.0, input, 1)
    check(output, lambda part, _: (summed(part, weight).bfloat16().double() + part).relu(), input)
    del output
    grad = torch.zeros_like(input)
    at = torch.tensor([0, 5, LENGTH // 3, LENGTH // 2 + 1, LENGTH - 2, LENGTH - 1])
    grad[:, :, at] = 1
    _, of_weight, _ = native.raw_backward(grad, input, weight, None, flat, 2)
    assert torch.equal(of_weight[..., 0].double(), input[0, :, at].double().sum(1).expand(CHANNELS, CHANNELS))
    del input
    of_input, *_ = native.raw_backward(grad, grad, weight, None, flat, 1)
    check(of_input, lambda part, _: summed(part, weight.transpose(0, 1)), grad)


@each_layout
def test_depthwise_separable(channels_inner):
    native, flat = compiled("depthwise_separable:n1_c{c}_o{c}_i{i}_k3_pad1_depthwise-bias=0_multiplier=1")
    torch.manual_seed(0)
    taps, weight = whole(CHANNELS, 1, 3), whole(CHANNELS, CHANNELS, 1)
    input = filled((1, CHANNELS, LENGTH), channels_inner=channels_inner)
    output = native.raw(input, taps, weight, None, None, flat)
    assert output.stride() == input.stride()
    check(output, lambda part, _: summed(tapped(part, taps), weight), input)


@each_layout
def test_inverted_residual(channels_inner):
    _, flat = compiled("depthwise_separable:n1_c{c}_o{c}_i{i}_k3_pad1_depthwise-bias=0_multiplier=1")
    torch.manual_seed(0)
    first, taps, weight = whole(CHANNELS, CHANNELS, 1), whole(CHANNELS, 1, 3), whole(CHANNELS, CHANNELS, 1, most=1)
    bias = whole(CHANNELS)
    input = filled((1, CHANNELS, LENGTH), channels_inner=channels_inner)
    parts = (first, None, bias, [], 0.0, taps, None, [], 0.0, weight, None, None, [], 0.0)
    output = torch.ops.omniconv.inverted_followed(input, *parts, input, (*flat, 0, 0, 2))

    def compute(part, outside):  # which what the bias makes of zeros outside does not reach
        expanded = F.relu6(summed(part, first) + bias.double().view(-1, 1)).masked_fill(outside, 0)
        return summed(tapped(expanded, taps), weight) + part

    assert output.stride() == input.stride()
    check(output, compute, input)


@each_layout
def test_dynamic(channels_inner):
    native, flat = compiled("dynamic:n1_c{c}_o{c}_i{i}_k3_g{c}_pad1_heads=1_softmax=0")
    input = filled((1, CHANNELS, LENGTH), channels_inner=channels_inner)
    kernels = filled((1, 3, LENGTH), channels_inner=channels_inner).unsqueeze(1)
    output = native.raw(input, kernels, None, flat)
    assert output.stride() == input.stride()

    def compute(part, shares, _):
        return sum(shares[:, :, tap] * part.roll(1 - tap, -1) for tap in range(3))

    check(output, compute, input, kernels)
    del output
    grad = torch.zeros_like(input)
    at = torch.tensor([0, 5, LENGTH // 3, LENGTH // 2 + 1, LENGTH - 2, LENGTH - 1])
    grad[:, :, at] = 1
    _, of_kernels, _ = native.raw_backward(grad, input, kernels, None, flat, 2)
    for tap in range(3):
        met = at + tap - 1
        inside = (met >= 0) & (met < LENGTH)
        want = torch.zeros(len(at), dtype=torch.float64)
        want[inside] = input[0, :, met[inside]].double().sum(0)
        assert torch.equal(of_kernels[0, 0, tap, at].double(), want)
    assert int(of_kernels.count_nonzero()) <= 3 * len(at)
    del of_kernels, input
    of_input, *_ = native.raw_backward(grad, grad, kernels, None, flat, 1)

    def back(of_output, shares, _):
        return sum((of_output * shares[:, :, tap]).roll(tap - 1, -1) for tap in range(3))

    check(of_input, back, grad, kernels)
