# SPDX-License-Identifier: Apache-2.0
"""Pieces put side by side along a dim, by concatenation or by writing into a slice. It imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from omniconv.analysis.field import reads
from omniconv.analysis.field.layout import Field
from omniconv.analysis.field.merge import MisalignedError, merged
from omniconv.analysis.field.moves import expanded

WRAPPED = "borders hold positions from elsewhere, as in circular padding, which the field leaves out"


def concatenated(fields: Sequence[Field], dim: int, shape: Sequence[int], why: str) -> Field:
    """Pieces one after another along ``dim``."""
    total: Field | None = None
    offset, placed = 0, []
    for field in fields:
        length = field.shape[dim]
        placed.append((length, _placed(field, dim, offset, 1, shape[dim], why)))
        offset += length
    for length, piece in sorted(placed, key=lambda p: -p[0]):
        if piece.depends:
            total = piece if total is None else _beside(total, piece, dim, length, why)
    return expanded(total, shape) if total else Field.independent(shape, len(fields[0].axes))


def written(whole: Field, piece: Field, dim: int, start: int, step: int, why: str) -> Field:
    """``whole`` after ``piece`` was written to every ``step``-th index of ``dim`` from ``start``."""
    size, length = whole.shape[dim], piece.shape[dim]
    if length == size:
        return piece
    placed = _placed(piece, dim, start, step, size, why)
    if not whole.depends:
        return expanded(placed, whole.shape)
    return expanded(_beside(whole, placed, dim, length, why), whole.shape)


def _placed(field: Field, dim: int, start: int, step: int, size: int, why: str) -> Field:
    """A piece at its place in a dim of ``size``, as if it went on to both sides."""
    if not field.axes_in((dim,)):
        return field.with_dim(dim, ())
    if step == 1:
        return field.windowed(dim, reads.point(-start), size, why)
    return field.windowed(dim, reads.transposed(1, step, 1, -start), size, why)


def _beside(whole: Field, piece: Field, dim: int, length: int, why: str) -> Field:
    """The field of ``whole`` where ``piece`` holds ``length`` of its positions along ``dim``."""
    shape = [max(sizes) for sizes in zip(whole.shape, piece.shape, strict=True)]
    if any(_is_border(whole, piece, dim, axis, length) for axis in piece.axes_in((dim,))):
        return whole.noted(WRAPPED)
    try:
        return merged((whole, piece), shape, why)
    except MisalignedError as error:
        apart = whole.marked((error.axis,), is_global=True)
        return apart.noted(f"{why} puts pieces of stride {error.strides[0]} and {error.strides[1]} along one dim")


def _is_border(whole: Field, piece: Field, dim: int, axis: int, length: int) -> bool:
    """Whether a short piece was copied from beyond the middle, as circular padding does, or mirrored."""
    size = max(whole.shape[dim], piece.shape[dim])
    if axis not in whole.axes_in((dim,)) or 2 * length >= size:
        return False
    one, two = whole.along(axis).map, piece.along(axis).map
    if one.stride * two.stride < 0:
        return True
    first, second = one(0), two(0)
    apart = 0 if first is None or second is None else abs(first[0] - second[0])
    return one.stride == two.stride and one.sizes == two.sizes and 2 * apart > size * abs(one.stride)
