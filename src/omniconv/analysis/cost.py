# SPDX-License-Identifier: Apache-2.0
"""``cost``: the exact numbers of one layer, or of a model, on one input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from omniconv.analysis.arguments import arguments_of, first_tensor
from omniconv.analysis.profiling.profile import profile
from omniconv.analysis.profiling.result import Profile
from omniconv.core.cost import Cost, Step
from omniconv.core.family import family_of


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs: exact integers, under the names of :class:`omniconv.core.cost.Cost`.

    Attributes:
        params: parameters, bias included, shared ones once.
        macs: multiply-adds of all products, without bias.
        bias_adds, sampling, exponentials, other_ops: work counted apart from the MACs.
        parts: the costs of its convolutions, with their formulas.
        itemsize: bytes of an element of its first floating-point parameter, or else of its input.
        status: ``complete``, or ``partial`` where something ran that no rule knows.
        notes: what was not counted, and what the families say.
    """

    params: int
    macs: int
    bias_adds: int
    sampling: int
    exponentials: int
    other_ops: int
    parts: tuple[Cost, ...]
    itemsize: int
    status: str
    notes: tuple[str, ...]
    moved: int

    @property
    def steps(self) -> tuple[Step, ...]:
        """The passes over memory of its convolutions."""
        return tuple(step for part in self.parts for step in part.steps)

    @property
    def flops(self) -> int:
        """Two a multiply-add, sampling included, one for all else: what :meth:`bytes` are moved for."""
        return 2 * (self.macs + self.sampling) + self.bias_adds + self.other_ops

    def bytes(self, itemsize: int | None = None) -> int:
        """Least bytes moved, call by call; with ``itemsize`` as if every element had that many bytes."""
        return self.moved if itemsize is None else self.moved // self.itemsize * itemsize

    def intensity(self, itemsize: int | None = None) -> float:
        """FLOP per byte."""
        moved = self.bytes(itemsize)
        return self.flops / moved if moved else 0.0


def cost(layer: nn.Module, input: Any) -> LayerCost:
    """Count what ``layer`` costs on ``input``.

    Args:
        layer: a layer of this library or of torch, or any module.
        input: a tensor, a shape such as ``(1, 64, 56, 56)``, or a tuple or dict of these; see :func:`profile`.

    Raises:
        TypeError, ValueError: as :func:`profile`.

    Example:
        >>> import torch
        >>> cost(torch.nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1), (1, 16, 8, 8)).macs
        131072
    """
    found: Profile = profile(layer, input, receptive_field=False)
    floating = (p for p in layer.parameters() if p.dtype.is_floating_point)
    first = next(floating, first_tensor(*arguments_of(input, layer)))
    parts = tuple(family_of(row.problem).cost(row.problem) for row in found.rows if row.problem is not None)
    said = [row.note for row in found.rows if row.uncounted] + [note for part in parts for note in part.notes]
    return LayerCost(
        found.params,
        found.macs,
        found.bias_adds,
        found.sampling,
        found.exponentials,
        found.other_ops,
        parts,
        4 if first is None else first.dtype.itemsize,
        found.status,
        (*found.notes, *said),
        found.bytes,
    )
