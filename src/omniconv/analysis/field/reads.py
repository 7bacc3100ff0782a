# SPDX-License-Identifier: Apache-2.0
"""What windows, transposed windows, pooling and resizing read along one axis. It imports no torch.

Borders are left out: an index beyond the image is read as if the image went on, so that padding gives the usual
receptive field, unclipped.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor, gcd

from omniconv.analysis.field.interval import Interval, Reads, hull


def point(offset: int, step: int = 1) -> Reads:
    """Output ``j`` is input ``step j + offset``: a crop, a padding, a strided slice, or with step -1 a flip."""
    return Reads(step, (range(offset, offset + 1),))


def window(kernel: int, stride: int = 1, dilation: int = 1, before: int = 0) -> Reads:
    """A convolution or a pooling with ``before`` positions of padding."""
    return Reads(stride, (range(-before, dilation * (kernel - 1) + 1 - before, dilation),))


def transposed(kernel: int, stride: int = 1, dilation: int = 1, before: int = 0) -> Reads:
    """A transposed convolution that crops ``before``: input ``i`` writes ``stride i + dilation k - before``."""
    phases = []
    for phase in range(stride):
        places = [phase + before - dilation * k for k in reversed(range(kernel))]
        met = [place // stride for place in places if place % stride == 0]
        gap = dilation // gcd(dilation, stride)
        phases.append(range(met[0], met[-1] + 1, gap) if met else range(0))
    return Reads(1, tuple(phases))


def adaptive(size: int, out: int) -> Reads:
    """Adaptive pooling of ``size`` positions to ``out``."""
    common = gcd(size, out)
    return Reads(size // common, tuple(range(j * size // out, -((j + 1) * -size // out)) for j in range(out // common)))


def nearest(scale: Fraction, *, exact: bool = False) -> Reads:
    """Nearest resizing with ``scale`` inputs per output; ``exact`` measures from pixel centres."""
    half = Fraction(1, 2) if exact else Fraction(0)
    places = [floor((j + half) * scale) for j in range(scale.denominator)]
    return Reads(scale.numerator, tuple(range(i, i + 1) for i in places))


def interpolated(scale: Fraction, radius: int, *, antialias: bool = False) -> Reads:
    """Linear (``radius`` 1) or cubic (2) resizing with ``scale`` inputs per output."""
    stretch = max(scale, Fraction(1)) if antialias else Fraction(1)
    half = Fraction(1, 2)
    centres = (scale * (j + half) - half for j in range(scale.denominator))
    return Reads(scale.numerator, tuple(_filtered(centre, radius, stretch) for centre in centres))


def corners(size: int, out: int, radius: int, *, antialias: bool = False) -> Reads:
    """The same with aligned corners: an upper bound that keeps the rhythm ``size / out``.

    The true stride, ``(size - 1) / (out - 1)``, drifts by less than one input against that of any other layer.
    """
    scale, true = Fraction(size, out), Fraction(size - 1, max(out - 1, 1))
    stretch = max(true, Fraction(1)) if antialias else Fraction(1)
    phases: list[Interval | None] = [None] * scale.denominator
    for j in range(out):
        turn, phase = divmod(j, scale.denominator)
        taps, back = _filtered(j * true, radius, stretch), turn * scale.numerator
        phases[phase] = hull((phases[phase], (taps.start - back, taps.stop - 1 - back)))
    return Reads(scale.numerator, tuple(range(lo, hi + 1) for lo, hi in filter(None, phases)))


def _filtered(centre: Fraction, radius: int, stretch: Fraction) -> range:
    """The inputs that weigh in a filter of ``radius`` around ``centre``, stretched when it averages many."""
    if stretch == 1 and centre.denominator == 1:
        return range(int(centre), int(centre) + 1)
    support = radius * stretch
    return range(floor(centre - support) + 1, ceil(centre + support))
