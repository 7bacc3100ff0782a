# SPDX-License-Identifier: Apache-2.0
"""Several tensors meeting position by position: the hull of their fields, wherever their positions lie. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from math import prod

from omniconv.analysis.field.interval import IntervalMap, Reads, StridesDifferError, join
from omniconv.analysis.field.layout import AxisField, Dim, Field, Slot, places
from omniconv.analysis.field.moves import expanded

Place = tuple[int, int]


class MisalignedError(ValueError):
    """Two branches of different effective stride meet."""

    def __init__(self, axis: int, strides: tuple[Fraction, Fraction], where: str = "an operator") -> None:
        self.axis, self.strides = axis, strides
        super().__init__(
            f"{where} joins branches whose effective strides (={strides[0]} and {strides[1]}) along spatial axis "
            f"{axis} must be equal: their positions drift apart, and no receptive field has a fixed size; give both "
            "branches the same total stride."
        )


def merged(fields: Sequence[Field], shape: Sequence[int], why: str) -> Field:
    """The field of a tensor of ``shape`` whose elements depend on those of ``fields``, broadcast to it.

    Raises:
        MisalignedError: the positions of two branches drift apart, so the hull has no constant size.
    """
    present = [expanded(f, shape) for f in fields if f.depends]
    if not present:
        return Field.independent(shape, len(fields[0].axes) if fields else 0)
    if all(f == present[0] for f in present):
        return present[0]
    if any(f.dims != present[0].dims for f in present):
        present = _on_one_grid(present, why)
    result = replace(present[0], axes=(None,) * len(present[0].axes)).noted(*(n for f in present for n in f.notes))
    taken: dict[Place, Slot] = {}
    for axis in range(len(result.axes)):
        result = _merged_axis(result, axis, [f for f in present if f.axes[axis]], taken, why)
    dims = [
        tuple(taken.get((d, k), Slot(slot.size)) for k, slot in enumerate(dim)) for d, dim in enumerate(present[0].dims)
    ]
    return result.with_dims(dims)


def _on_one_grid(fields: Sequence[Field], why: str) -> list[Field]:
    """The same fields with every dim cut into the same slots."""
    found = list(fields)
    for d in range(len(fields[0].dims)):
        if any(b % a for a, b in pairwise(_ends(found, d))):
            found = [f.localised(d, why) for f in found]
    sizes = [[b // a for a, b in pairwise(_ends(found, d))][::-1] for d in range(len(fields[0].dims))]
    return [replace(f, dims=tuple(_cut(dim, n) for dim, n in zip(f.dims, sizes, strict=True))) for f in found]


def _ends(fields: Sequence[Field], d: int) -> list[int]:
    """The block sizes at which a dim of ``fields`` changes slots, smallest first."""
    return sorted({prod(s.size for s in f.dims[d][k:]) for f in fields for k in range(len(f.dims[d]) + 1)})


def _cut(dim: Dim, sizes: Sequence[int]) -> Dim:
    if not sizes:
        return dim[:1] or (Slot(1),)
    cut: list[Slot] = []
    queue = list(dim or (Slot(prod(sizes)),))
    for size in sizes:
        slot = queue.pop(0)
        inner = slot.size // size
        cut.append(Slot(size, slot.axis, slot.weight * inner))
        if inner > 1:
            queue.insert(0, Slot(inner, slot.axis, slot.weight))
    return tuple(cut)


def _merged_axis(result: Field, axis: int, fields: Sequence[Field], taken: dict[Place, Slot], why: str) -> Field:
    """``result`` with the hull of ``fields`` along one axis; the slots it moves along are put into ``taken``."""
    placed = [_placed(f, axis) for f in fields]
    base = _base(placed, taken)
    count = prod(slot.size for slot in base.values())
    taken.update(base)
    total: AxisField | None = None
    is_global = unbounded = False
    for field, slots in zip(fields, placed, strict=True):
        part = field.along(axis)
        is_global, unbounded = is_global or part.is_global, unbounded or part.unbounded
        at = _onto(part.map, slots, base)
        fixed = at is None and (count > 1 or bool(slots))
        if fixed and not part.is_global:
            result = result.noted(f"{why} lets every position along axis {axis} depend on all others")
            is_global = True
        if fixed:
            continue
        total, words = _joined(total, AxisField(at or part.map), count, axis, why)
        result = result.noted(*words)
        is_global = is_global or total.is_global
    local = total or max((f.along(axis) for f in fields), key=lambda f: f.map.size)
    axes = list(result.axes)
    axes[axis] = AxisField(local.map, is_global, unbounded)
    return replace(result, axes=tuple(axes))


def _joined(
    total: AxisField | None, part: AxisField, count: int, axis: int, why: str
) -> tuple[AxisField, tuple[str, ...]]:
    if total is None:
        return part, ()
    strides = total.map.stride, part.map.stride
    if strides[0] * strides[1] < 0:
        return replace(total, is_global=True), (f"{why} meets its own mirror image along axis {axis}",)
    try:
        joined, bound = join(total.map, part.map, count)
    except StridesDifferError as error:
        raise MisalignedError(axis, error.strides) from None
    words = f"{why} joins strides {strides[0]} and {strides[1]} along axis {axis}: the field is an upper bound"
    return replace(total, map=joined), (words,) if bound and count > 1 else ()


def _placed(field: Field, axis: int) -> dict[Place, Slot]:
    return {(d, k): slot for d, dim in enumerate(field.dims) for k, slot in enumerate(dim) if slot.axis == axis}


def _base(placed: Sequence[dict[Place, Slot]], taken: dict[Place, Slot]) -> dict[Place, Slot]:
    """The slots that the result moves along: those of the field that has most of them."""
    found = [p for p in placed if p]
    if any(p != found[0] for p in found):
        found = [p for p in found if _counts(p)]
    free = [p for p in found if not p.keys() & taken.keys()]
    return max(free, key=len, default={})


def _counts(slots: dict[Place, Slot]) -> bool:
    """Whether the slots are the digits of one number, so that a position names them all."""
    expected = 1
    for slot in sorted(slots.values(), key=lambda s: s.weight):
        if slot.weight != expected:
            return False
        expected *= slot.size
    return True


def _onto(intervals: IntervalMap, slots: dict[Place, Slot], base: dict[Place, Slot]) -> IntervalMap | None:
    """The map by positions along ``base``; None where it does not move with them."""
    if slots == base:
        return intervals
    for place, slot in slots.items():
        if place not in base:
            intervals = intervals.through(Reads(1, (range(0, slot.weight * slot.size, slot.weight),)))
    order = sorted(base, key=lambda p: -base[p].weight)
    weights = [slots[p].weight if p in slots else 0 for p in order]
    if not weights or weights[0] == 0:
        return None
    inner = [base[p].size for p in order[1:]]
    return intervals.through(Reads(weights[0], places(weights[1:], inner)))
