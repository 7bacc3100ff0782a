# SPDX-License-Identifier: Apache-2.0
"""A given kernel as a sum of separable products: exactly where it is one, else as close as the rank allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import gcd
from typing import Any

import torch
from torch import Tensor

from .reference import composed

Factors = list[Tensor]


@dataclass(frozen=True)
class Factoring:
    """What a kernel became.

    Attributes:
        rank: separable products that are summed in each group: the channels between two passes.
        numerical_rank: products that the kernel needs to be met to rounding.
        error: ‖kernel − sum‖ / ‖kernel‖ in the Frobenius norm; 0 where every element is met exactly.
    """

    rank: int
    numerical_rank: int
    error: float

    def __str__(self) -> str:
        return f"{self.rank} of {self.numerical_rank} products, relative error {self.error:.3g}"


def factor(kernel: Tensor, groups: int, rank: int | None, tolerance: float | None) -> tuple[Factors, Factoring]:
    """Factor ``kernel`` (o, c/g, *k) into the weights of the passes, first axis first, in its own dtype.

    Raises:
        ValueError: a kernel that is not separable, or not to ``tolerance`` at ``rank``; the text names its rank.
    """
    if not bool(kernel.isfinite().all()):
        raise ValueError(
            f"`kernel` (of shape {tuple(kernel.shape)}) must be finite to be factored; it holds inf or NaN."
        )
    wide = kernel.double().unflatten(0, (groups, -1))
    needed = max(int(_ranks(part, kernel.dtype).max()) for part in _unfoldings(_joint(wide)))
    if rank is None and tolerance is None:
        _check_separable(wide, kernel, needed)
    if rank is None:
        rank = max(needed, 1) if tolerance is None else _reaching(wide, tolerance, needed)
    factors, factoring = _at_rank(kernel, wide, rank, needed)
    if tolerance is not None and factoring.error > tolerance:
        use = (
            f"`rank`={needed}"
            if rank < needed
            else f"`tolerance`={1.1 * factoring.error:.2g} or more, which is rounding"
        )
        raise ValueError(
            f"`rank` (={rank}) leaves a relative error of {factoring.error:.3g}, above `tolerance` (={tolerance:g}); "
            f"the numerical rank of the kernel is {needed}: use {use}."
        )
    return factors, factoring


def _at_rank(kernel: Tensor, wide: Tensor, rank: int, needed: int) -> tuple[Factors, Factoring]:
    exact = (_exact_slices(wide, rank) or _exact_whole(wide, rank)) if rank >= needed else None
    weights = [part.flatten(0, 1).to(kernel.dtype) for part in exact or _closest(wide, rank)]
    met = composed([weight.double() for weight in weights], wide.shape[0])
    whole = float(wide.norm())
    return weights, Factoring(rank, needed, float((met - wide).norm()) / whole if whole else 0.0)


def _check_separable(wide: Tensor, kernel: Tensor, needed: int) -> None:
    slices = wide.flatten(0, 2)
    worst = torch.stack([_ranks(part, kernel.dtype) for part in _unfoldings(slices)]).amax(0)
    if int(worst.max()) > 1:
        _, nearest = _at_rank(kernel, wide, 1, needed)
        top, many = int(worst.max()), int((worst > 1).sum())
        found = f"{many} of its {len(worst)} slices have ranks up to {top}" if len(worst) > 1 else f"its rank is {top}"
        raise ValueError(
            f"`kernel` (of shape {tuple(kernel.shape)}) is not separable: {found} (numerical), and an outer product "
            f"has rank 1; use `rank`={needed} for a sum of products that meets it, or less for one that is close "
            f"(`rank`=1: relative error {nearest.error:.3g})."
        )


def _reaching(wide: Tensor, tolerance: float, needed: int) -> int:
    """The least rank at which the singular values that are left out promise an error within ``tolerance``."""
    squares = [torch.linalg.svdvals(part).square() for part in _unfoldings(_joint(wide))]
    allowed = (tolerance * wide.norm()) ** 2
    for rank in range(1, needed):
        if sum(values[:, rank:].sum() for values in squares) <= allowed:
            return rank
    return max(needed, 1)


def _joint(wide: Tensor) -> Tensor:
    """(g, o, c, *k) as the array whose unfoldings the passes split: (g, c·k first, …, o·k last)."""
    groups, outs, channels, *kernel = wide.shape
    order = [0, 2, 3, *range(4, wide.dim() - 1), 1, wide.dim() - 1]
    return wide.permute(order).reshape(groups, channels * kernel[0], *kernel[1:-1], outs * kernel[-1])


def _unfoldings(joint: Tensor) -> list[Tensor]:
    """The matrices (g, rows, columns) between every two passes."""
    groups, *sizes = joint.shape
    return [joint.reshape(groups, torch.Size(sizes[:cut]).numel(), -1) for cut in range(1, len(sizes))]


def _ranks(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """The numerical rank of each of a batch of matrices: its singular values above the rounding of ``dtype``."""
    values = torch.linalg.svdvals(matrices)
    rounding = torch.finfo(dtype).eps * max(matrices.shape[-2:])
    return (values > rounding * values[..., :1]).sum(-1)


def _closest(wide: Tensor, rank: int) -> Factors:
    """Truncated singular value decompositions, pass by pass: with two axes no sum of so many products is closer."""
    groups, outs, channels, *kernel = wide.shape
    rest, before, factors = _joint(wide).reshape(groups, channels * kernel[0], -1), channels, []
    for axis, size in enumerate(kernel[:-1]):
        left, values, right = torch.linalg.svd(rest, full_matrices=False)
        kept = min(rank, values.shape[-1])
        root = values[:, :kept].sqrt()
        part = wide.new_zeros(groups, rank, before * size)
        part[:, :kept] = (left[..., :kept] * root[:, None]).mT
        factors.append(_along(part.unflatten(2, (before, size)), axis, len(kernel)))
        rest = wide.new_zeros(groups, rank, right.shape[-1])
        rest[:, :kept] = root[..., None] * right[:, :kept]
        before = rank
        if axis < len(kernel) - 2:
            rest = rest.reshape(groups, rank * kernel[axis + 1], -1)
    last = rest.reshape(groups, rank, outs, kernel[-1]).transpose(1, 2)
    return [*factors, _along(last, len(kernel) - 1, len(kernel))]


def _along(part: Tensor, axis: int, dim: int) -> Tensor:
    """(g, out, in, k) as a weight whose kernel lies along ``axis``."""
    return part.reshape(*part.shape[:3], *(part.shape[3] if other == axis else 1 for other in range(dim)))


def _exact_slices(wide: Tensor, rank: int) -> Factors | None:
    """Whole-number factors of slices that are exact outer products, if ``rank`` channels hold them; else None.

    Floating-point numbers are whole numbers over a power of two, so the test for rank 1 and the factors are exact.
    """
    groups, outs, channels, *kernel = wide.shape
    widths = [channels, *[rank] * (len(kernel) - 1), outs]
    factors = [wide.new_zeros(groups, widths[a + 1], widths[a], size) for a, size in enumerate(kernel)]
    for group in range(groups):
        places: list[dict[Any, int]] = [{} for _ in kernel[1:]]
        for o, c in product(range(outs), range(channels)):
            vectors = _vectors(wide[group, o, c])
            if vectors is None:
                return None
            if not vectors:
                continue
            at: int = c
            for axis, vector in enumerate(vectors[:-1]):
                seen = places[axis]
                place = seen.setdefault((at, tuple(vector)), len(seen))
                if place >= rank:
                    return None
                factors[axis][group, place, at] = wide.new_tensor(vector)
                at = place
            factors[-1][group, o, at] = wide.new_tensor(vectors[-1])
    return [_along(part, axis, len(kernel)) for axis, part in enumerate(factors)]


def _exact_whole(wide: Tensor, rank: int) -> Factors | None:
    """Factors of a kernel that is exactly one outer product with its channels taken along; else None."""
    groups, outs, channels, *kernel = wide.shape
    found = [_vectors(whole) for whole in _joint(wide)]
    factors = []
    for axis, size in enumerate(kernel):
        ways = (outs if axis == len(kernel) - 1 else 1, 1 if axis else channels)
        part = wide.new_zeros(groups, ways[0] if axis == len(kernel) - 1 else rank, rank if axis else channels, size)
        for group, vectors in enumerate(found):
            if vectors is None:
                return None
            if vectors:
                part[group, : ways[0], : ways[1]] = wide.new_tensor(vectors[axis]).view(*ways, size)
        factors.append(_along(part, axis, len(kernel)))
    return factors


def _vectors(slice_: Tensor) -> list[list[float]] | None:
    """One vector per axis whose outer product is exactly ``slice_``; [] where it is zero, None where there is none."""
    ratios = [value.as_integer_ratio() for value in slice_.flatten().tolist()]
    scale = max(below for _, below in ratios)
    values, vectors = [above * (scale // below) for above, below in ratios], []
    if not any(values):
        return []
    for size in slice_.shape[:-1]:
        split = _split(values, size)
        if split is None:
            return None
        vectors.append([float(value) for value in split[0]])
        values = split[1]
    return [*vectors, [value / scale for value in values]]


def _split(values: Sequence[int], size: int) -> tuple[list[int], list[int]] | None:
    """A matrix of ``size`` rows as column times row, the column without a common factor; None above rank 1."""
    width = len(values) // size
    rows = [values[i * width : (i + 1) * width] for i in range(size)]
    first = next(j for j in range(width) if any(row[j] for row in rows))
    column = [row[first] for row in rows]
    pivot = next(i for i, value in enumerate(column) if value)
    divisor = gcd(*column) * (1 if column[pivot] > 0 else -1)
    column = [value // divisor for value in column]
    row = [value // column[pivot] for value in rows[pivot]]
    exact = all(rows[i][j] == column[i] * row[j] for i in range(size) for j in range(width))
    return (column, row) if exact else None
