# SPDX-License-Identifier: Apache-2.0
"""What a user of torch alone writes for a problem: the ordinary convolutions that its family's record names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from omniconv.analysis.benchmark.operands import Operands
from omniconv.analysis.benchmark.peers import Call, Unavailable
from omniconv.core.benchmarks import Plain
from omniconv.core.family import family_of
from omniconv.core.problem import ConvProblem

Function = Callable[..., Tensor]
_GATHER = (torch.conv1d, torch.conv2d, torch.conv3d)
_SCATTER = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)


def steps_of(problem: ConvProblem) -> tuple[Plain, ...]:
    """The ordinary convolutions that compute a problem.

    Raises:
        Unavailable: there are none.
    """
    steps = family_of(problem).benchmarks.plain(problem)
    if not steps:
        raise Unavailable("it has no such operator")
    return steps


def function_of(problem: ConvProblem, *, as_image: bool = False) -> Function:
    """The function of the family's tensors, in schema order, that torch's own convolutions make.

    Args:
        problem: what it computes.
        as_image: take a sequence as an image of one row, (n, c, 1, i), for which torch has channels_last.
    """
    steps, names = steps_of(problem), family_of(problem).tensor_names
    calls = [convolution(image_of(step.problem) if as_image else step.problem) for step in steps]
    if len(steps) == 1 and not as_image and not (steps[0].softmax or steps[0].repeat > 1):
        return calls[0]

    def run(*tensors: Tensor | None) -> Tensor:
        given = dict(zip(names, tensors, strict=True))
        x: Any = tensors[0]
        for step, call in zip(steps, calls, strict=True):
            weight = weight_of(step, given)
            x = call(x, weight.unsqueeze(2) if as_image else weight, given[step.bias] if step.bias else None)
        return x

    return run


def weight_of(step: Plain, given: Mapping[str, Tensor | None]) -> Tensor:
    """The weight of a step: normalised over its taps, and repeated for the channels that share it."""
    weight: Any = given[step.weight]
    if step.softmax:
        weight = weight.flatten(1).softmax(1).view(weight.shape)
    return weight.repeat_interleave(step.repeat, 0).unsqueeze(1) if step.repeat > 1 else weight


def image_of(problem: ConvProblem) -> ConvProblem:
    """The convolution of a sequence as one of an image with one row."""
    return replace(
        problem,
        kernel_size=(1, *problem.kernel_size),
        stride=(1, *problem.stride),
        padding=((0, 0), *problem.padding),
        dilation=(1, *problem.dilation),
        output_padding=(0, *problem.output_padding) if problem.transposed else (),
        in_size=(1, *(problem.in_size or ())),
    )


def convolution(problem: ConvProblem) -> Function:
    """Torch's function of input, weight and bias for one ordinary convolution.

    Where the padding before and after an axis differ, the larger stands on both sides and the outputs that it adds are
    sliced off, as Mamba's code does: that copies nothing, where padding the input first copies it whole.

    Raises:
        Unavailable: torch cannot express it so.
    """
    pads, stride = problem.pads(), problem.stride
    if problem.transposed:
        if any(before != after for before, after in pads):
            raise Unavailable("it crops both sides of an axis alike")
        crop = tuple(before for before, _ in pads)
        numbers: dict[str, Any] = {"padding": crop, "output_padding": problem.appended, "dilation": problem.dilation}
        return partial(_SCATTER[problem.dim - 1], stride=stride, groups=problem.groups, **numbers)
    around = tuple(map(max, pads))
    function = _GATHER[problem.dim - 1]
    whole = partial(function, stride=stride, padding=around, dilation=problem.dilation, groups=problem.groups)
    if all(before == after for before, after in pads):
        return whole
    skipped = [divmod(most - before, step) for most, (before, _), step in zip(around, pads, stride, strict=True)]
    if any(rest for _, rest in skipped):
        raise Unavailable("it pads both sides of an axis alike")
    slices = [slice(first, first + out) for (first, _), out in zip(skipped, problem.out_size, strict=True)]
    kept: tuple[Any, ...] = (..., *slices)

    def cut(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return whole(input, weight, bias)[kept]

    return cut


def answered(function: Function, operands: Operands) -> Call:
    """The call of a function on the operands: its output, then, where there is a gradient, those of its arguments."""
    tensors, leaves, gradient = operands.tensors, operands.leaves, operands.gradient
    if gradient is None:
        return Call(lambda: function(*tensors), lambda output: (output,))

    def train() -> tuple[Tensor, ...]:
        output = function(*tensors)
        return output, *torch.autograd.grad(output, leaves, gradient)

    return Call(train, tuple)
