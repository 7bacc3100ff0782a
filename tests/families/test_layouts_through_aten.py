# SPDX-License-Identifier: Apache-2.0
"""Dense convolutions that are laid out anew on the way: the same numbers, gradients and storage as torch gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from tolerance import assert_close

WIDE = "conv:n2_c64_o128_i3x{}_k1x3_d1x7_pad0x7_b"
DOUBLING = "transposed:n1_c16_o3_i{}x64_k2x3_s2x2_pad0x1_op0x1_t_b"
ROW = "conv:n{}_c16_o5_i40_k3_d2_pad2_b"


def halves(*shape):
    return torch.randint(-4, 5, shape).float() / 2


def tensors_of(problem):
    torch.manual_seed(0)
    weight = (16, 3, 2, 3) if problem.transposed else (problem.out_channels, problem.in_channels, *problem.kernel_size)
    input = (problem.batch, problem.in_channels, *problem.in_size)
    return halves(*input), halves(*weight), halves(problem.out_channels)


def direct(problem, input, weight, bias):
    if problem.transposed:
        return F.conv_transpose2d(input, weight, bias, problem.stride, (0, 1), (0, 1))
    function = F.conv1d if problem.dim == 1 else F.conv2d
    padding = [before for before, _ in problem.pads()]
    return function(input, weight, bias, problem.stride, padding, problem.dilation)


def by_positions(input):
    return input.transpose(1, 2).contiguous().transpose(1, 2)


def channels_last(input):
    return input.contiguous(memory_format=torch.channels_last)


def check(problem, input, weight, bias):
    leaves = [t.detach().requires_grad_() for t in (input, weight, bias)]
    twins = [t.detach().double().requires_grad_() for t in (input, weight, bias)]
    output, want = Plan(problem)(*leaves), direct(problem, *twins)
    assert_close(output, want)
    grads = torch.autograd.grad(output.sum(), leaves)
    for got, right in zip(grads, torch.autograd.grad(want.sum(), twins), strict=True):
        assert_close(got, right)
    return output


def calls_in_channels_last(problem, tensors):
    """Whether ATen's convolution met an input whose channels lie side by side."""
    met = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            if function is torch.ops.aten.convolution.default:
                met.append(arguments[0].stride(1) == 1)
            return function(*arguments, **(named or {}))

    with Watch():
        Plan(problem)(*tensors)
    assert len(met) == 1
    return met[0]


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        (WIDE.format(29), True),
        (WIDE.format(28), False),
        (DOUBLING.format(64), True),
        (DOUBLING.format(63), False),
    ],
)
def test_through_channels_last(text, moved):
    problem = ConvProblem.parse(text)
    input, weight, bias = tensors_of(problem)
    assert calls_in_channels_last(problem, (input, weight, bias)) == moved
    assert check(problem, input, weight, bias).is_contiguous()
    # What lies in channels last already stays there, and other types are not copied.
    laid = check(problem, channels_last(input), weight, bias)
    assert laid.is_contiguous(memory_format=torch.channels_last)
    assert not calls_in_channels_last(problem, (input.double(), weight.double(), bias.double()))


@pytest.mark.parametrize(("batch", "moved"), [(2, True), (1, False)])
def test_one_row_as_an_image(batch, moved):
    problem = ConvProblem.parse(ROW.format(batch))
    input, weight, bias = tensors_of(problem)
    assert check(problem, input, weight, bias).is_contiguous()
    output = check(problem, by_positions(input), weight, bias)
    assert (output.stride(1) == 1) == moved


def test_a_long_row_as_an_image():
    problem = ConvProblem.parse("conv:n1_c16_o5_i256_k3_pad1_b")
    input, weight, bias = tensors_of(problem)
    assert check(problem, by_positions(input), weight, bias).stride(1) == 1


@pytest.mark.parametrize("text", [WIDE.format(29), DOUBLING.format(64), ROW.format(2)])
def test_compiled(text):
    problem = ConvProblem.parse(text)
    tensors = tensors_of(problem)
    plan = Plan(problem)
    for input in (tensors[0], channels_last(tensors[0]) if problem.dim == 2 else by_positions(tensors[0])):
        compiled = torch.compile(plan, fullgraph=True, backend="aot_eager")
        assert_close(compiled(input, *tensors[1:]), direct(problem, *(t.double() for t in (input, *tensors[1:]))))


@pytest.mark.parametrize("text", [WIDE.format(29), DOUBLING.format(64), ROW.format(2)])
def test_transforms(text):
    """Samples of a map, gradients of each sample, a derivative forwards and gradients of gradients."""
    problem = ConvProblem.parse(text)
    input, weight, bias = tensors_of(problem)
    plan = Plan(problem)
    mapped = torch.vmap(lambda x: plan(x, weight, bias))(torch.stack([input, input + 1]))
    assert_close(mapped[1], direct(problem, *(t.double() for t in (input + 1, weight, bias))))
    grads = torch.vmap(torch.func.grad(lambda w, x: plan(x, w, bias).sum()), (None, 0))(weight, input[:, None])
    whole = torch.func.grad(lambda w: direct(problem, input.double(), w, bias.double()).sum())(weight.double())
    assert_close(grads.sum(0), whole)
    _, tangent = torch.func.jvp(lambda x: plan(x, weight, bias), (input,), (input,))
    assert_close(tangent, direct(problem, input.double(), weight.double(), None))
    leaf = input.clone().requires_grad_()
    (first,) = torch.autograd.grad(plan(leaf, weight, bias).square().sum(), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    twin = input.double().requires_grad_()
    given = [t.double() for t in (weight, bias)]
    (once,) = torch.autograd.grad(direct(problem, twin, *given).square().sum(), twin, create_graph=True)
    assert_close(second, *torch.autograd.grad(once.sum(), twin))


def test_nothing_is_copied_under_autocast():
    problem = ConvProblem.parse(WIDE.format(29))
    tensors = tensors_of(problem)
    with torch.autocast("cpu", torch.bfloat16):
        assert not calls_in_channels_last(problem, tensors)
        assert Plan(problem)(*tensors).dtype == torch.bfloat16
