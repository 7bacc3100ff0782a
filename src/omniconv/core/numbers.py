# SPDX-License-Identifier: Apache-2.0
"""The user's arguments as plain numbers: integers, per-axis tuples, divisors, and errors that name a legal value."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any


def _is_symbolic(value: object) -> bool:
    """A traced size (``torch.SymInt``), recognised without importing torch."""
    return type(value).__name__ == "SymInt"


def integer(name: str, value: Any, least: int | None = None) -> int:
    """Return ``value`` as an integer of at least ``least``.

    Raises:
        TypeError: ``value`` is not an integer (``True`` and ``2.0`` are not).
        ValueError: ``value`` is below ``least``.
    """
    if not isinstance(value, int) and not _is_symbolic(value):
        try:
            value = operator.index(value)
        except TypeError:
            raise TypeError(f"`{name}` (={value!r}) must be an integer, not {type(value).__name__}.") from None
    elif isinstance(value, bool):
        raise TypeError(f"`{name}` (={value!r}) must be an integer, not bool.")
    if least is not None and value < least:
        raise ValueError(f"`{name}` (={value}) must be at least {least}; use {least} or more.")
    return value  # an int, or a traced size that behaves as one


def boolean(name: str, value: Any) -> bool:
    """Return ``value`` if it is a bool; anything else raises ``TypeError``."""
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` (={value!r}) must be True or False, not {type(value).__name__}.")
    return value


def fraction(name: str, value: Any) -> float:
    """Return ``value`` if it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"`{name}` (={value!r}) must be a number from 0 to 1, not {type(value).__name__}.")
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` (={value}) must be from 0 to 1; use {0 if value < 0 else 1}.")
    return float(value)


def per_axis(name: str, value: Any, dim: int, least: int) -> tuple[int, ...]:
    """Return one integer per spatial axis from an integer or a sequence of ``dim`` integers."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        if isinstance(value, float | str | bytes) or value is None:
            raise TypeError(f"`{name}` (={value!r}) must be an integer or {dim} of them, not {type(value).__name__}.")
        return (integer(name, value, least),) * dim
    if len(value) == 1 and dim > 1:
        return (integer(name, value[0], least),) * dim
    if len(value) != dim:
        nearest = tuple(value[:dim]) + tuple(value[-1:] or (least,)) * (dim - len(value))
        raise ValueError(f"`{name}` (={tuple(value)}) must have one value per axis ({dim}); use {nearest}.")
    return tuple(integer(name, v, least) for v in value)


def divisors(number: int, other: int = 0) -> list[int]:
    """All positive integers that divide ``number`` and ``other``."""
    return [g for g in range(1, max(number, 1) + 1) if number % g == 0 and other % g == 0]


def must_divide(name: str, value: int, whole_name: str, whole: int, other: int = 0) -> None:
    """Raise ``ValueError`` unless ``value`` divides ``whole``; the text names the nearest legal values."""
    if whole % value:
        legal = divisors(whole, other)
        shown = sorted(sorted(legal, key=lambda g: (abs(g - value), g))[:6])
        options = " or ".join(filter(None, (", ".join(map(str, shown[:-1])), str(shown[-1]))))
        raise ValueError(f"`{name}` (={value}) must divide `{whole_name}` (={whole}); use {options}.")


def one_of(name: str, value: Any, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of the words ``options``."""
    if not isinstance(value, str):
        raise TypeError(f"`{name}` (={value!r}) must be a string, not {type(value).__name__}; use {_quoted(options)}.")
    if value not in options:
        raise ValueError(f"`{name}` (={value!r}) must be one of the known words; use {_quoted(options)}.")
    return value


def _quoted(options: Sequence[str]) -> str:
    return ", ".join(repr(o) for o in options[:-1]) + f" or {options[-1]!r}" if len(options) > 1 else repr(options[0])
