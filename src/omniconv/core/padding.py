# SPDX-License-Identifier: Apache-2.0
"""The rules of ``padding``, used by :class:`~omniconv.core.problem.ConvProblem` alone.

A parsed padding holds one entry per axis: a pair ``(before, after)`` or the name of a rule. Rules, for an input of
``i`` positions, ``k`` taps, stride ``s``, dilation ``d`` and span ``e = d(k-1) + 1``:

========== ==================================================== ==================================================
rule       gather (an ordinary convolution): zeros to add       transposed: positions to crop, output ``s i``
========== ==================================================== ==================================================
valid      none                                                 none; output ``(i-1)s + e``
same       ``e - 1`` in all, the odd one after; stride 1        ``e - s`` in all, the odd one after
same_lower as tf_same, the odd one before                       the odd one before
tf_same    ``max((ceil(i/s)-1)s + e - i, 0)``, odd one after    as same
causal     ``e - 1``, all before                                ``e - s``, all after
========== ==================================================== ==================================================

``same`` is torch's rule, ``tf_same`` TensorFlow's and ONNX's SAME_UPPER, ``same_lower`` ONNX's SAME_LOWER.
Where ``e < s`` a transposed rule crops nothing and appends ``s - e`` positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .numbers import integer

RULES = ("valid", "same", "same_lower", "tf_same", "causal")
Pair = tuple[int, int]
AxisPadding = Pair | str


def parse_padding(value: Any, dim: int) -> tuple[AxisPadding, ...]:
    """Return one pair or rule per axis from an int, a rule, or a sequence of ints, pairs and rules."""
    if isinstance(value, str):
        rule = _rule(value)
        if rule == "causal" and dim > 1:
            example = ("causal", *("same",) * (dim - 1))
            raise ValueError(
                f"`padding` (='causal') holds for one axis, and there are {dim}; name one rule per axis, as {example}."
            )
        return (rule,) * dim
    if not isinstance(value, Sequence):
        if isinstance(value, float) or value is None:
            raise TypeError(f"`padding` (={value!r}) must be an integer, a rule or one entry per axis.")
        return ((integer("padding", value, 0),) * 2,) * dim
    entries = tuple(_entry(v) for v in value)
    if len(entries) == 1 and dim > 1 and isinstance(value[0], int):
        entries *= dim
    if len(entries) != dim:
        pairs = tuple(tuple(value) for _ in range(dim)) if dim == 1 and len(value) == 2 else ((1, 1),) * dim
        raise ValueError(
            f"`padding` (={value!r}) must have one entry per axis ({dim}); per-side amounts are nested, as {pairs}."
        )
    return entries


def _entry(value: Any) -> AxisPadding:
    if isinstance(value, str):
        return _rule(value)
    if isinstance(value, Sequence):
        if len(value) != 2:
            raise ValueError(f"`padding` entry (={tuple(value)}) must be a pair (before, after); use two amounts.")
        return (integer("padding", value[0], 0), integer("padding", value[1], 0))
    if isinstance(value, float) or value is None:
        raise TypeError(f"`padding` entry (={value!r}) must be an integer, a pair or a rule.")
    return (integer("padding", value, 0),) * 2


def _rule(value: str) -> str:
    if value not in RULES:
        raise ValueError(f"`padding` (={value!r}) must be a number or a known rule; use one of {', '.join(RULES)}.")
    return value


def gather_pair(entry: AxisPadding, size: int | None, kernel: int, stride: int, dilation: int) -> Pair | None:
    """Zeros before and after one axis; None where the rule needs an input size that is not known yet."""
    if not isinstance(entry, str):
        return entry
    span = dilation * (kernel - 1) + 1
    if entry == "valid":
        return (0, 0)
    if entry == "causal":
        return (span - 1, 0)
    if stride == 1 or entry == "same":
        total = span - 1
    elif size is None:
        return None
    else:
        total = span - 1 - (size - 1) % stride  # as in the table, in a form whose bounds a trace can prove
        total = total if span >= stride else max(total, 0)
    lower = total - total // 2 if entry == "same_lower" else total // 2
    return (lower, total - lower)


def crop_pair(entry: AxisPadding, kernel: int, stride: int, dilation: int) -> tuple[Pair, int]:
    """Positions cropped before and after one axis of a transposed convolution, and positions its rule appends."""
    if not isinstance(entry, str):
        return entry, 0
    span = dilation * (kernel - 1) + 1
    if entry == "valid":
        return (0, 0), 0
    total = max(span - stride, 0)
    lower = {"causal": 0, "same_lower": total - total // 2}.get(entry, total // 2)
    return (lower, total - lower), max(stride - span, 0)
