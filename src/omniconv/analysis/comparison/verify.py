# SPDX-License-Identifier: Apache-2.0
"""A layer's answer beside the formula in float64: no time is shown of a layer that computes something else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from omniconv.core.family import family_of
from omniconv.core.observe import listening
from omniconv.core.problem import ConvProblem

# More multiply-adds than this take the formula about a second in float64: a smaller input then stands for the whole.
MOST_MACS = 1_000_000_000
# An error may be this many rounding steps of the largest expected value, as in the table of the tests.
FACTORS = {torch.float64: 128, torch.float32: 128, torch.bfloat16: 8, torch.float16: 8}
# GPUs multiply float32 with eleven bits where torch allows it, and torch allows convolutions to.
TF32_EPS = 2.0**-10


def complaint(layer: nn.Module, input: Tensor, problem: ConvProblem) -> str:
    """What is wrong with what ``layer`` computes, or "".

    Its answer to ``input`` must be finite and of the right shape. Every convolution inside it is then compared with the
    formula in float64: on this input, or on a smaller one where the formula would take long.
    """
    output = layer(input)
    expected = (input.shape[0], problem.out_channels, *problem.out_size_of(tuple(input.shape[2:])))
    if tuple(output.shape) != expected:
        return f"the output has shape {tuple(output.shape)}, and {expected} is right"
    if not bool(output.isfinite().all()):
        return "the output is not finite"
    calls: list[tuple[ConvProblem, Sequence[Any], Tensor]] = []

    def listen(seen: ConvProblem, tensors: Sequence[Any], run: Callable[[], Tensor]) -> Tensor:
        answer = run()
        calls.append((seen, tensors, answer))
        return answer

    with listening(listen):
        returned = layer(_small(input, problem))
    if not calls:
        return "no convolution was seen in it, so nothing could be checked"
    if not torch.equal(returned, calls[-1][2]):
        return "the output is not what its last convolution computed"
    return next(filter(None, (_difference(*call) for call in calls)), "")


def _difference(problem: ConvProblem, tensors: Sequence[Any], answer: Tensor) -> str:
    wide = [t.detach().to("cpu", torch.float64) if isinstance(t, Tensor) else t for t in tensors]
    expected = family_of(problem).part("reference").reference(problem, *wide)
    got = answer.detach().to("cpu", torch.float64)
    if got.shape != expected.shape:
        return f"{problem} has shape {tuple(got.shape)}, and {tuple(expected.shape)} is right"
    if not expected.numel():
        return ""
    error = float((got - expected).abs().max())
    allowed = rounding(answer.dtype, answer.device.type) * float(expected.abs().max())
    # Written so that NaN is an error too.
    return (
        ""
        if error <= allowed
        else f"{problem} differs from the formula by {error:.2g}; rounding explains {allowed:.2g}"
    )


def rounding(dtype: torch.dtype, device: str) -> float:
    """The error, over the largest expected value, that rounding explains on a kind of device."""
    loose = device == "cuda" and dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return 8 * TF32_EPS if loose else FACTORS[dtype] * torch.finfo(dtype).eps


def _small(input: Tensor, problem: ConvProblem) -> Tensor:
    """``input``, or its first image cut down until the formula takes at most ``MOST_MACS``."""
    family = family_of(problem)

    def macs(sizes: tuple[int, ...], batch: int) -> int:
        return family.cost(problem.at(sizes, batch)).macs

    sizes = tuple(input.shape[2:])
    if macs(sizes, input.shape[0]) <= MOST_MACS:
        return input
    least = [e + s for e, s in zip(problem.span, problem.stride, strict=True)]
    while macs(sizes, 1) > MOST_MACS and any(size > low for size, low in zip(sizes, least, strict=True)):
        sizes = tuple(max(math.ceil(size / 2), min(size, low)) for size, low in zip(sizes, least, strict=True))
    return input[(slice(1), slice(None), *map(slice, sizes))].contiguous()
