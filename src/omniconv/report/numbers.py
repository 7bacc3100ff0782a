# SPDX-License-Identifier: Apache-2.0
"""Numbers as a reader wants them: three digits and an SI prefix, sizes joined by ×, ratios to three decimals."""

from __future__ import annotations

from collections.abc import Sequence

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")


def short(value: float) -> str:
    """Three digits and an SI prefix, ``231 M``; a number below 1000 that is whole stays as it is."""
    if abs(value) < 1000 and value == int(value):
        return str(int(value))
    power = 0
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value /= 1000
        power += 1
    return f"{digits(value)} {_PREFIXES[power]}".rstrip()


def digits(value: float, count: int = 3) -> str:
    """``count`` significant digits without an exponent: ``0.0123``, ``4.62``, ``171``, ``15400``."""
    if value == 0:
        return "0"
    places = count - 1
    size = abs(value)
    while size >= 10:
        size, places = size / 10, places - 1
    while size < 1:
        size, places = size * 10, places + 1
    if round(size, count - 1) >= 10:
        places -= 1
    return f"{round(value, places):.{max(places, 0)}f}"


def ratio(value: float) -> str:
    """Three decimals, or three digits where those would say nothing: ``0.119``, ``1.000``, ``0.00042``, ``12.3``."""
    return f"{value:.3f}" if 0.0095 <= value < 10 or value == 0 else digits(value, 2 if value < 0.0095 else 3)


def percent(share: float) -> str:
    """Whole percents, with a decimal below ten: ``43%``, ``0.7%``, ``<0.1%``."""
    if 0 < share < 0.0005:
        return "<0.1%"
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.1f}%"


def times(value: float) -> str:
    """A factor in a sentence: ``1.9×``, ``64×``."""
    return f"{digits(value, 2 if value < 100 else 3)}×"


def sizes(values: Sequence[int]) -> str:
    """Sizes of the axes: ``56×56``."""
    return "×".join(map(str, values))


def each(values: Sequence[int]) -> str:
    """One number where all axes agree, else all of them: ``3``, ``3×5``."""
    return str(values[0]) if len(set(values)) == 1 else sizes(values)
