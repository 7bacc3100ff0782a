# SPDX-License-Identifier: Apache-2.0
"""Views and copies that move elements without mixing them: what they do to a field. It imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from math import prod

from omniconv.analysis.field.layout import Dim, Field, Slot, plain, runs_joined, size_of
from omniconv.analysis.field.reads import point


def reshaped(field: Field, shape: Sequence[int], why: str) -> Field:
    """The same elements, row by row, in another shape."""
    if prod(shape) == 0:
        return Field.independent(shape, len(field.axes))
    dims: list[Dim] = []
    for start, stop, first, last in _segments(field.shape, shape):
        sizes = tuple(shape[first:last])
        parts = _dealt(field.dims[start:stop], sizes)
        if parts is None:
            for d in range(start, stop):
                field = field.localised(d, why)
            parts = _dealt(field.dims[start:stop], sizes)
        if parts is None:
            field = field.collapsed(range(start, stop), why)
            parts = [plain(n) for n in sizes]
        dims.extend(parts)
    return field.with_dims(dims)


def _segments(old: Sequence[int], new: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """Runs of dims, old and new, of equal product."""
    runs: list[tuple[int, int, int, int]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        start, first, size, other = i, j, old[i], new[j]
        i, j = i + 1, j + 1
        while size != other:
            if size < other:
                size, i = size * old[i], i + 1
            else:
                other, j = other * new[j], j + 1
        runs.append((start, i, first, j))
    start, _, first, _ = runs.pop() if runs else (0, 0, 0, 0)
    return [*runs, (start, len(old), first, len(new))]


def _dealt(source: Sequence[Dim], sizes: Sequence[int]) -> list[Dim] | None:
    """The slots of ``source`` dealt to dims of ``sizes``; None where a slot would have to be cut unevenly."""
    if tuple(map(size_of, source)) == tuple(sizes):
        return list(source)
    queue = list(runs_joined(tuple(chain(*source))))
    dims: list[Dim] = []
    for size in sizes:
        need = size
        dim: list[Slot] = []
        while need > 1 or (size == 1 and not dim and queue and queue[0].size == 1):
            slot = queue.pop(0)
            if need % slot.size == 0:
                dim.append(slot)
                need //= slot.size
            elif slot.size % need == 0:
                inner = slot.size // need
                dim.append(Slot(need, slot.axis, slot.weight * inner))
                queue.insert(0, Slot(inner, slot.axis, slot.weight))
                need = 1
            else:
                return None
        dims.append(tuple(dim))
    return dims


def sliced(field: Field, dim: int, start: int, step: int, size: int, why: str) -> Field:
    """Indices ``start, start + step, …`` of a dim, ``size`` of them."""
    slots, axes = field.dims[dim], field.axes_in((dim,))
    if size == size_of(slots) and step == 1:
        return field
    if not axes:
        return field.with_dim(dim, plain(size))
    lead, inner = slots[0], size_of(slots[1:])
    if len(slots) == 1:
        rest = (Slot(size, lead.axis, lead.weight * step),)
        return field.mapped(axes[0], point(lead.weight * start)).with_dim(dim, rest)
    if step == 1 and start % inner == 0 and size % inner == 0:
        if lead.axis is not None:
            field = field.mapped(lead.axis, point(lead.weight * (start // inner)))
        return field.with_dim(dim, (Slot(size // inner, lead.axis, lead.weight), *slots[1:]))
    return sliced(field.localised(dim, why), dim, start, step, size, why)


def selected(field: Field, dim: int, index: int, why: str) -> Field:
    """One index of a dim, which goes."""
    one = sliced(field, dim, index, 1, 1, why)
    return one.with_dims([d for i, d in enumerate(one.dims) if i != dim])


def flipped(field: Field, dims: Collection[int]) -> Field:
    """``dims`` in reverse order."""
    found = list(field.dims)
    for d in dims:
        for slot in field.dims[d]:
            if slot.axis is not None:
                field = field.mapped(slot.axis, point(slot.weight * (slot.size - 1)))
        found[d] = tuple(Slot(s.size, s.axis, -s.weight) for s in found[d])
    return field.with_dims(found)


def expanded(field: Field, shape: Sequence[int]) -> Field:
    """Broadcast to ``shape``."""
    dims = ((),) * (len(shape) - len(field.dims)) + field.dims
    return field.with_dims([plain(n) if size_of(d) != n else d for d, n in zip(dims, shape, strict=True)])


def repeated(field: Field, times: Sequence[int]) -> Field:
    """Tiled, as ``Tensor.repeat`` does."""
    dims = ((),) * (len(times) - len(field.dims)) + field.dims
    return field.with_dims([(Slot(n), *dim) if n > 1 else dim for n, dim in zip(times, dims, strict=True)])


def unfolded(field: Field, dim: int, size: int, step: int, why: str) -> Field:
    """Windows of ``size`` every ``step``, their insides as a new last dim, as ``Tensor.unfold`` does."""
    field = field.localised(dim, why)
    whole = field.dims[dim][0] if field.dims[dim] else Slot(1)
    count = (whole.size - size) // step + 1
    dims = list(field.dims)
    dims[dim] = (Slot(count, whole.axis, whole.weight * step),)
    return field.with_dims([*dims, (Slot(size, whole.axis, whole.weight),)])
