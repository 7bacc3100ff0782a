# SPDX-License-Identifier: Apache-2.0
"""Images of every height and width: kernels work in tiles, and what a tile leaves over is where they may go wrong."""

from __future__ import annotations

import pytest
import torch

from omniconv.core.library import absent
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan

SIZES = range(1, 68)


def integers(*shape):
    return torch.randint(-3, 4, shape).float().requires_grad_()


def check(problem, layout):
    """The output and its gradients, exact: sums of small integers."""
    torch.manual_seed(0)
    channels, size = problem.in_channels, problem.in_size
    input, weight = integers(1, channels, *size), integers(channels, channels // problem.groups, *problem.kernel_size)
    laid = input.contiguous(memory_format=layout)
    output = Plan(problem)(laid, weight, None)
    twins = [t.detach().double().requires_grad_() for t in (input, weight)]
    want = torch.nn.functional.conv2d(*twins, None, 1, tuple(k // 2 for k in problem.kernel_size), 1, problem.groups)
    assert torch.equal(output.double(), want), "output"
    grad = torch.randint(-3, 4, output.shape).float()
    got = torch.autograd.grad(output, (input, weight), grad.contiguous(memory_format=layout))
    rights = torch.autograd.grad(want, twins, grad.double())
    for name, mine, right in zip(("input", "weight"), got, rights, strict=True):
        assert torch.equal(mine.double(), right), f"gradient of the {name}"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["in order", "channels last"])
@pytest.mark.parametrize("taps", [3, 5, 7])
@pytest.mark.parametrize("of_group", [1, 2])
def test_every_height_and_width(taps, of_group, layout):
    for size in SIZES:
        for height, width in ((size, 20), (20, size)):
            rest = f"k{taps}x{taps}_g32_pad{taps // 2}"
            problem = ConvProblem.parse(f"conv:n1_c{32 * of_group}_o{32 * of_group}_i{height}x{width}_{rest}")
            check(problem, layout)


@pytest.mark.skipif(bool(absent()), reason=absent())
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["in order", "channels last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [4, 33])
@pytest.mark.parametrize("taps", [3, 5])
def test_infinity_reaches_the_taps_that_meet_it(taps, channels, dtype, layout):
    height, width, pad = 17, 19, taps // 2
    input, grad = (torch.randint(1, 4, (2, channels, height, width)).to(dtype) for _ in range(2))
    input[0, 1, 3, width - 1] = input[1, 2, height - 1, 0] = torch.inf
    weight = torch.ones(channels, 1, taps, taps, dtype=dtype, requires_grad=True)
    rest = f"i{height}x{width}_k{taps}x{taps}_g{channels}_pad{pad}"
    problem = ConvProblem.parse(f"conv:n2_c{channels}_o{channels}_{rest}")
    output = Plan(problem)(input.contiguous(memory_format=layout), weight, None)
    (got,) = torch.autograd.grad(output, weight, grad.contiguous(memory_format=layout))
    padded = torch.nn.functional.pad(input, (pad,) * 4).double()
    met = [padded[..., i : i + height, j : j + width] for i in range(taps) for j in range(taps)]
    want = torch.stack([(part * grad.double()).sum((0, 2, 3)) for part in met], 1).view(weight.shape)
    assert torch.equal(got, want.to(dtype))
