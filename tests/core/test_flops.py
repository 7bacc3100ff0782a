# SPDX-License-Identifier: Apache-2.0
"""Torch's counter of operations sees compiled kernels: forward as the ATen calls that compute the same."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from contract.problems import COMPILED, each, first_of_each_kernel, halves, present
from omniconv import nn
from omniconv.core.library import absent
from omniconv.core.register import _KERNELS, Plan

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())
CHOSEN = [case for case in COMPILED if case.chosen]


def counted(function, *arguments):
    with FlopCounterMode(display=False) as counter:
        result = function(*arguments)
    return counter.get_total_flops(), result


@each(first_of_each_kernel(CHOSEN))
def test_as_many_as_through_aten(case):
    plan, tensors = Plan(case.problem), halves(case.problem, torch.float32)
    portable, *_ = _KERNELS[case.problem.family, plan.choice.portable.name]
    want, _ = counted(portable, *tensors, *plan._arguments(tensors))
    with torch.inference_mode():
        assert counted(plan, *tensors)[0] == want
    assert want or plan.choice.portable.name == "accumulated"  # products of elements are none that torch counts


@pytest.mark.parametrize("overrideable", [True, False])
@each(first_of_each_kernel(CHOSEN))
def test_backward_counts_what_is_wanted(case, overrideable):
    plan, tensors = Plan(case.problem), halves(case.problem, torch.float32)
    if not overrideable or plan._overrideable is None:
        plan._overrideable, plan._recorded = None, (plan._compiled, ())
    once, _ = counted(plan, *tensors)
    names = [name for name, t in zip(plan.family.tensor_names, tensors, strict=True) if t is not None]
    input, *others = present(tensors)
    bias = [t for name, t in zip(names[1:], others, strict=True) if name.endswith("bias")]
    weights = [t for t in others if not any(t is one for one in bias)]
    for wanted, times in (([input], 1), (weights, 1), ([input, *weights, *bias], 2), (bias, 0)):
        for tensor in present(tensors):
            tensor.requires_grad_(any(tensor is one for one in wanted))
        if wanted:
            flops, _ = counted(torch.autograd.grad, plan(*tensors).sum(), wanted)
            assert flops == times * once


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(64, 64, 1), (2, 64, 5, 5)),
        (nn.PointwiseConv2d(6, 4, 2, activation=torch.nn.ReLU), (2, 6, 5, 5)),
        (nn.DepthwiseSeparableConv2d(6, 4, 3, multiplier=2, mid_activation=torch.nn.ReLU), (2, 6, 9, 7)),
        (nn.InvertedResidual2d(6, 4, 3, 2, padding=1), (2, 6, 9, 7)),
        (nn.Linear(64, 65), (3, 64)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
def test_layers_count_alike_at_every_call(layer, shape):
    """Packed weights and what follows a convolution go by other operators."""
    layer, x = layer.eval(), torch.randn(shape)
    with torch.no_grad():
        calls = [counted(layer, x)[0] for _ in range(4)]
    want, _ = counted(layer, x)  # with gradients the parts
    assert set(calls) == {want}
    assert want > 0
