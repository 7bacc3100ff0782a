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
    """Input positions that reach one output along an axis.

    Attributes:
        size: positions from the first to the last; of several phases, the most.
        stride: step from one output to the next.
        start: the first position that an output of the first period reaches; below 0 it lies in the padding.
    """

    size: int
    stride: Fraction
    start: int


def axis_field(problem: ConvProblem, axis: int) -> AxisField:
    """The receptive field of one convolution along ``axis``; its largest phase where a transposed one has several."""
    return _field((problem,), axis)


def field_of_path(path: tuple[ConvProblem, ...]) -> tuple[AxisField, ...]:
    """The receptive field of convolutions in sequence, first to last, per axis; of several phases the largest."""
    return tuple(_field(path, axis) for axis in range(path[0].dim))


def _field(path: tuple[ConvProblem, ...], axis: int) -> AxisField:
    phases = prod(problem.stride[axis] for problem in path if problem.transposed)
    reached = [found for found in (_reached(path, axis, phase) for phase in range(phases)) if found]
    strides = (Fraction(problem.stride[axis]) for problem in path)
    jump = prod(1 / s if problem.transposed else s for s, problem in zip(strides, path, strict=True))
    size = max((max(found) - min(found) + 1 for found in reached), default=0)
    return AxisField(size, Fraction(jump), min(map(min, reached), default=0))


def _reached(path: tuple[ConvProblem, ...], axis: int, output: int) -> set[int]:
    """Input positions of the first convolution whose products end in ``output`` of the last."""
    reached = {output}
    for problem in reversed(path):
        stride, before = problem.stride[axis], problem.pads()[axis][0]
        offsets = [problem.dilation[axis] * k - before for k in range(problem.kernel_size[axis])]
        if problem.transposed:
            reached = {(p - o) // stride for p in reached for o in offsets if (p - o) % stride == 0}
        else:
            reached = {stride * p + o for p in reached for o in offsets}
    return reached
