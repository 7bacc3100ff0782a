# SPDX-License-Identifier: Apache-2.0
"""Which input meets which output through which tap, walked one by one: the proof of counts, the source of figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import prod

from .problem import ConvProblem

MOST_STEPS = 20_000_000


@dataclass(frozen=True)
class Meeting:
    """One product on one axis: output position, tap, input position; ``kept`` if both lie inside their tensors."""

    output: int
    tap: int
    input: int
    kept: bool


def axis_meetings(problem: ConvProblem, axis: int) -> Iterator[Meeting]:
    """Walk the products of one axis: by outputs and taps (gather), or by inputs and taps (transposed)."""
    if problem.in_size is None:
        raise ValueError("`in_size` (=None) must be known to walk the taps; use problem.at(in_size).")
    size, out = problem.in_size[axis], problem.out_size[axis]
    before, _ = problem.pads()[axis]
    stride, dilation = problem.stride[axis], problem.dilation[axis]
    if problem.transposed:
        for i, k in product(range(size), range(problem.kernel_size[axis])):
            p = stride * i + dilation * k - before
            yield Meeting(p, k, i, 0 <= p < out)
    else:
        for p, k in product(range(out), range(problem.kernel_size[axis])):
            i = stride * p + dilation * k - before
            yield Meeting(p, k, i, 0 <= i < size or problem.padding_mode != "zeros")


@dataclass(frozen=True)
class Count:
    """Products counted by walking.

    Attributes:
        all_taps: every tap at every position, as the literature counts.
        on_data: those that touch data: input that is not padding, or output that is not cropped away.
        walked: positions and taps actually visited for one pair of channels.
        pairs: pairs of channels that meet, each walked the same way.
    """

    all_taps: int
    on_data: int
    walked: int
    pairs: int


def count_products(problem: ConvProblem) -> Count:
    """Count the products of one convolution by visiting each position and tap, and each pair of channels, in a loop.

    Raises:
        ValueError: a problem with over 20 million positions and taps, which a loop would take too long to visit.
    """
    positions = problem.in_size if problem.transposed else problem.out_size
    steps = prod(positions or ()) * prod(problem.kernel_size)
    if steps > MOST_STEPS:
        raise ValueError(f"`in_size` (={problem.in_size}) makes {steps:,} steps to walk; use at most {MOST_STEPS:,}.")
    walked = kept = 0
    for meetings in product(*(list(axis_meetings(problem, axis)) for axis in range(problem.dim))):
        walked += 1
        kept += all(m.kept for m in meetings)
    pairs = 0
    for o in range(problem.out_channels):
        for c in range(problem.in_channels):
            pairs += o * problem.groups // problem.out_channels == c * problem.groups // problem.in_channels
    batch = 1 if problem.batch is None else problem.batch
    return Count(batch * pairs * walked, batch * pairs * kept, walked, pairs)


@dataclass(frozen=True)
class AxisField:
    """Input positions that reach one output along an axis: how many, the step between outputs, the first."""

    size: int
    stride: Fraction
    start: int


def axis_field(problem: ConvProblem, axis: int) -> AxisField:
    """The receptive field of one convolution along ``axis``; its largest phase where a transposed one has several."""
    kernel, stride, dilation = problem.kernel_size[axis], problem.stride[axis], problem.dilation[axis]
    before = problem.pads()[axis][0]
    if not problem.transposed:
        return AxisField(problem.span[axis], Fraction(stride), -before)
    sizes, starts = [], []
    for phase in range(stride):
        reached = [
            (phase + before - dilation * k) // stride
            for k in range(kernel)
            if (phase + before - dilation * k) % stride == 0
        ]
        sizes.append(max(reached) - min(reached) + 1 if reached else 0)
        starts += [min(reached)] if reached else []
    return AxisField(max(sizes), Fraction(1, stride), min(starts))


def field_of_path(path: tuple[ConvProblem, ...]) -> tuple[AxisField, ...]:
    """The receptive field of convolutions in sequence, per axis, first to last."""
    result = []
    for axis in range(path[0].dim):
        size, stride, start = 1, Fraction(1), Fraction(0)
        for problem in path:
            own = axis_field(problem, axis)
            size += int((own.size - 1) * stride)
            start += own.start * stride
            stride *= own.stride
        result.append(AxisField(size, stride, int(start)))
    return tuple(result)
