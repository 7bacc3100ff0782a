# SPDX-License-Identifier: Apache-2.0
"""Where the input's axes have gone in a tensor, and what each of its positions depends on. It imports no torch.

Every dim of a tensor is a row-major product of slots. The position of an element along input axis ``a`` is
``j = Σ weight · index`` over the slots of that axis, wherever they are, and one interval map takes ``j`` to inputs.
Splitting, merging and moving dims then only moves slots: patches, shuffles and windows stay exact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd, prod

from omniconv.analysis.field.interval import IntervalMap, Reads
from omniconv.analysis.field.reads import point


@dataclass(frozen=True)
class Slot:
    """``size`` indices of a dim; they move along input axis ``axis`` by ``weight`` each, or along none."""

    size: int
    axis: int | None = None
    weight: int = 0


Dim = tuple[Slot, ...]


def plain(size: int) -> Dim:
    """A dim that follows no axis."""
    return () if size == 1 else (Slot(size),)


def size_of(dim: Dim) -> int:
    """The number of indices of a dim."""
    return prod(slot.size for slot in dim)


@dataclass(frozen=True)
class AxisField:
    """What the elements of a tensor depend on along one input axis.

    ``is_global``: somewhere every position was mixed; ``map`` is then the local field beside it. ``unbounded``:
    offsets computed at run time move the taps; ``map`` is then the field without them.
    """

    map: IntervalMap
    is_global: bool = False
    unbounded: bool = False


@dataclass(frozen=True)
class Field:
    """The dims of a tensor and, per input axis, its dependence: None where there is none."""

    dims: tuple[Dim, ...]
    axes: tuple[AxisField | None, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def independent(cls, shape: Sequence[int], axes: int) -> Field:
        """The field of a tensor that does not depend on the input."""
        return cls(tuple(plain(n) for n in shape), (None,) * axes)

    @classmethod
    def of_input(cls, shape: Sequence[int], followed: Sequence[int]) -> Field:
        """The field of the input itself; ``followed`` are its spatial dims, in order."""
        dims = [plain(n) for n in shape]
        for axis, dim in enumerate(followed):
            dims[dim] = (Slot(shape[dim], axis, 1),)
        return cls(tuple(dims), (AxisField(IntervalMap.identity()),) * len(followed))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(size_of(dim) for dim in self.dims)

    @property
    def depends(self) -> bool:
        return any(self.axes)

    def slots(self, axis: int) -> Iterator[tuple[int, Slot]]:
        """The slots of an axis with the dims they are in."""
        return ((d, slot) for d, dim in enumerate(self.dims) for slot in dim if slot.axis == axis)

    def axes_in(self, dims: Collection[int]) -> tuple[int, ...]:
        """The input axes that have slots in ``dims``."""
        return tuple(sorted({s.axis for d in dims for s in self.dims[d] if s.axis is not None}))

    def along(self, axis: int) -> AxisField:
        """The dependence on an axis that has slots."""
        found = self.axes[axis]
        if found is None:
            raise LookupError(f"nothing depends on axis {axis}")
        return found

    def noted(self, *notes: str) -> Field:
        """The same field with more words."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def marked(self, axes: Collection[int], *, is_global: bool = False, unbounded: bool = False) -> Field:
        """The same field, global or unbounded along ``axes``."""
        found = list(self.axes)
        for axis in axes:
            f = self.axes[axis]
            if f is not None:
                found[axis] = AxisField(f.map, f.is_global or is_global, f.unbounded or unbounded)
        return replace(self, axes=tuple(found))

    def mapped(self, axis: int, reads: Reads) -> Field:
        """The same field with positions along ``axis`` read through ``reads``."""
        axes = list(self.axes)
        before = self.along(axis)
        axes[axis] = replace(before, map=before.map.through(reads))
        return replace(self, axes=tuple(axes))

    def with_dims(self, dims: Sequence[Dim]) -> Field:
        """The same field with other dims, in lowest terms: slots joined, and positions counted in ones."""
        field = replace(self, dims=tuple(_in_lowest_terms(dim) for dim in dims))
        for axis, dependence in enumerate(self.axes):
            weights = [slot.weight for _, slot in field.slots(axis)]
            if dependence is None or not weights:
                continue
            common = weights[0] if len(weights) == 1 else gcd(*weights)
            if common != 1:
                field = field.mapped(axis, point(0, common))
                field = replace(field, dims=tuple(_divided(dim, axis, common) for dim in field.dims))
        return field

    def with_dim(self, dim: int, slots: Dim) -> Field:
        return self.with_dims((*self.dims[:dim], slots, *self.dims[dim + 1 :]))

    def moved(self, order: Sequence[int]) -> Field:
        """The dims in another order."""
        return replace(self, dims=tuple(self.dims[d] for d in order))

    def hulled(self, axis: int, dims: Collection[int]) -> Field:
        """The slots of ``axis`` in ``dims`` summed over: each element gets the hull of its window."""
        field = self
        for d, slot in self.slots(axis):
            if d in dims:
                field = field.mapped(axis, Reads(1, (range(0, slot.weight * slot.size, slot.weight),)))
        return field.with_dims([_without(dim, axis) if d in dims else dim for d, dim in enumerate(self.dims)])

    def mixed(self, dims: Collection[int], why: str, *, keep: bool = True) -> Field:
        """Every element depends on all of ``dims``, as under a softmax or a norm.

        An axis with slots elsewhere becomes a window of its own; one without becomes global, and with ``keep`` its
        local field goes on.
        """
        field = self
        for axis in self.axes_in(dims):
            inside = [slot for d, slot in self.slots(axis) if d in dims]
            if any(d not in dims for d, _ in self.slots(axis)):
                field = field.hulled(axis, dims)
            elif prod(slot.size for slot in inside) > 1 and not self.along(axis).is_global:
                field = field.marked((axis,), is_global=True).noted(f"{why} mixes all positions along axis {axis}")
        if keep:
            return field
        return field.with_dims([plain(size_of(d)) if i in dims else d for i, d in enumerate(field.dims)])

    def collapsed(self, dims: Collection[int], why: str) -> Field:
        """The same, and no element of ``dims`` has a place along an axis any more."""
        return self.mixed(dims, why, keep=False)

    def reduced(self, dims: Collection[int], why: str, *, keepdim: bool = False) -> Field:
        """Summed over ``dims``."""
        field = self.collapsed(dims, why)
        if keepdim:
            return field.with_dims([() if d in dims else dim for d, dim in enumerate(field.dims)])
        return field.with_dims([dim for d, dim in enumerate(field.dims) if d not in dims])

    def localised(self, dim: int, why: str) -> Field:
        """The same field with at most one slot in ``dim``, read through the digits of the others."""
        axes = self.axes_in((dim,))
        if not axes or len(self.dims[dim]) == 1:
            return self
        slots = self.dims[dim]
        if len(axes) > 1 or slots[0].axis is None:
            return self.collapsed((dim,), why)
        elsewhere = {d for d, _ in self.slots(axes[0]) if d != dim}
        if elsewhere:
            return self.collapsed(elsewhere, why).localised(dim, why)
        inner = slots[1:]
        reads = Reads(slots[0].weight, places([s.weight for s in inner], [s.size for s in inner]))
        return self.mapped(axes[0], reads).with_dim(dim, (Slot(size_of(slots), axes[0], 1),))

    def windowed(self, dim: int, reads: Reads, size: int, why: str) -> Field:
        """A local operation along ``dim`` that leaves ``size`` positions."""
        field = self.localised(dim, why)
        axes = field.axes_in((dim,))
        if not axes:
            return field.with_dim(dim, plain(size))
        (slot,) = field.dims[dim]
        elsewhere = {d for d, _ in field.slots(axes[0]) if d != dim}
        if elsewhere and reads.period > 1:
            return field.collapsed(elsewhere, why).windowed(dim, reads, size, why)
        if elsewhere:
            (taps,) = reads.phases
            scaled = range(taps.start * slot.weight, taps.stop * slot.weight, taps.step * slot.weight)
            field = field.mapped(axes[0], Reads(1, (scaled,)))
            return field.with_dim(dim, (Slot(size, axes[0], slot.weight * reads.jump),))
        return field.mapped(axes[0], reads).with_dim(dim, (Slot(size, axes[0], 1),))


def places(weights: Sequence[int], sizes: Sequence[int]) -> tuple[range, ...]:
    """Where each index of slots lies, the last slot counting fastest."""
    digits = product(*map(range, sizes))
    found = (sum(w * i for w, i in zip(weights, index, strict=True)) for index in digits)
    return tuple(range(p, p + 1) for p in found)


def runs_joined(slots: Dim) -> Dim:
    """The same slots with those that count on from each other as one."""
    joined: list[Slot] = []
    for slot in slots:
        last = joined[-1] if joined else None
        if last is not None and last.axis == slot.axis and last.weight == slot.weight * slot.size:
            joined[-1] = Slot(last.size * slot.size, slot.axis, slot.weight)
        else:
            joined.append(slot)
    return tuple(joined)


def _in_lowest_terms(dim: Dim) -> Dim:
    long = size_of(dim) > 1
    return runs_joined(tuple(s for s in dim if s.size != 1 or (s.axis is not None and not long)))


def _without(dim: Dim, axis: int) -> Dim:
    return tuple(Slot(s.size) if s.axis == axis else s for s in dim)


def _divided(dim: Dim, axis: int, by: int) -> Dim:
    return tuple(replace(s, weight=s.weight // by) if s.axis == axis else s for s in dim)
