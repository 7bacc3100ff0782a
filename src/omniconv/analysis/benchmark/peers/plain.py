# SPDX-License-Identifier: Apache-2.0
"""What a user of torch alone writes for a problem: the ordinary convolutions that its family's record names.

Where kernels vary from position to position it is a sum of shifted products. Unfolding the input takes four to five
times as long at the sizes that are timed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniconv.analysis.benchmark.operands import Operands
from omniconv.analysis.benchmark.peers import Call, Unavailable
from omniconv.analysis.benchmark.problems import Benchmark
from omniconv.core.benchmarks import Plain
from omniconv.core.family import family_of
from omniconv.core.problem import ConvProblem

Function = Callable[..., Tensor]
_GATHER = (torch.conv1d, torch.conv2d, torch.conv3d)
_SCATTER = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
_IN_PLACE = {name: partial(getattr(F, name), inplace=True) for name in ("relu", "relu6", "silu", "hardswish")}


def steps_of(problem: ConvProblem) -> tuple[Plain, ...]:
    """The ordinary convolutions that compute a problem.

    Raises:
        Unavailable: there are none.
    """
    steps = family_of(problem).benchmarks.plain(problem)
    if not steps:
        raise Unavailable("it has no such operator")
    return steps


def function_of(benchmark: Benchmark, *, as_image: bool = False) -> Function:
    """The function of a benchmark's arguments that torch's own convolutions make.

    Args:
        benchmark: what it computes.
        as_image: take a sequence as an image of one row, (n, c, 1, i), for which torch has channels_last.
    """
    steps = steps_of(benchmark.problem)
    if as_image and any(step.varies for step in steps):
        raise Unavailable("it computes no convolution: as torch")
    calls = [
        partial(shifted, step) if step.varies else convolution(image_of(step.problem) if as_image else step.problem)
        for step in steps
    ]
    return composed(benchmark, calls, as_image=as_image)


def composed(benchmark: Benchmark, calls: Sequence[Function], *, as_image: bool = False) -> Function:
    """The function of a benchmark's arguments that calls these convolutions, and after each what follows it."""
    steps, names = steps_of(benchmark.problem), benchmark.family.tensor_names
    if len(steps) == 1 and not (as_image or benchmark.followed or steps[0].softmax or steps[0].repeat > 1):
        return calls[0]
    last, follow = len(steps) - 1, following(benchmark)

    def run(*arguments: Tensor | None) -> Tensor:
        given = dict(zip(names, arguments, strict=not benchmark.add))
        x: Any = arguments[0]
        for at, (step, call) in enumerate(zip(steps, calls, strict=True)):
            weight = weight_of(step, given)
            x = call(x, weight.unsqueeze(2) if as_image else weight, given[step.bias] if step.bias else None)
            x = follow(x, arguments[-1] if benchmark.add and at == last else None)
        return x

    return run


def following(benchmark: Benchmark) -> Callable[[Tensor, Tensor | None], Tensor]:
    """What follows a convolution: an addend, if any, then the activation; in place, unless gradients need the place."""
    word, in_place = benchmark.activation, not benchmark.training
    activation: Any = (_IN_PLACE.get(word) if in_place else None) or (getattr(F, word) if word else None)

    def follow(x: Tensor, addend: Tensor | None) -> Tensor:
        if addend is not None:
            x = x.add_(addend) if in_place else x + addend
        return x if activation is None else activation(x)

    return follow


def shifted(step: Plain, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The input, shifted by each tap, times the tap's weights at each position, added up in float32 at least."""
    problem, dim = step.problem, step.problem.dim
    around = [amount for pair in reversed(problem.pads()) for amount in pair]
    wide = input if input.dtype == torch.float64 else input.float()
    by_head = torch.nn.functional.pad(wide, around).unflatten(1, (weight.shape[1], step.repeat))
    shares = weight.flatten(2, 1 + dim).to(wide.dtype)
    shares = shares.softmax(2) if step.softmax else shares
    total: Any = None
    for number, tap in enumerate(product(*(range(k) for k in problem.kernel_size))):
        places = [
            slice(d * k, d * k + s * (out - 1) + 1, s)
            for d, k, s, out in zip(problem.dilation, tap, problem.stride, problem.out_size, strict=True)
        ]
        met, share = by_head[(..., *places)], shares[:, :, None, number]
        total = met * share if total is None else torch.addcmul(total, met, share)
    total = total.flatten(1, 2)
    return (total if bias is None else total + bias.view(-1, *[1] * dim)).to(input.dtype)


def weight_of(step: Plain, given: Mapping[str, Tensor | None]) -> Tensor:
    """The weight of a step: normalised over its taps, and repeated for the channels that share it, unless it varies."""
    weight: Any = given[step.weight]
    if step.varies:
        return weight
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
    arguments, leaves, gradient = operands.arguments, operands.leaves, operands.gradient
    if gradient is None:
        return Call(lambda: function(*arguments), lambda output: (output,))

    def train() -> tuple[Tensor, ...]:
        output = function(*arguments)
        return output, *torch.autograd.grad(output, leaves, gradient)

    return Call(train, tuple)
