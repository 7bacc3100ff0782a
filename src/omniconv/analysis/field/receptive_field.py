# SPDX-License-Identifier: Apache-2.0
"""``receptive_field``: which input positions an output depends on, through any graph of operators, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import nn

from omniconv.analysis.field.interval import Interval, IntervalMap
from omniconv.analysis.field.layout import Field, size_of
from omniconv.analysis.field.run import Run
from omniconv.analysis.model_output import Path


@dataclass(frozen=True)
class ReceptiveField:
    """What one output depends on, per spatial axis of the input, as if the image had no border.

    Attributes:
        size: input positions from the first to the last that matter; the largest phase where they differ.
        stride: input positions from one output to the next, a fraction after upsampling.
        start: first input position of output 0, negative where padding comes first; None where it depends on none.
        phases: the size for each of the outputs after which the pattern repeats, one unless something upsamples.
        is_global: somewhere every position was mixed (a global pooling, attention, a norm over positions). The size
            is then that of the local field beside it.
        unbounded: offsets computed at run time move the taps; the size is that without them.
        notes: in words, whatever the numbers leave out.
        layers: for each call of a module without children, its qualified name and its field, in order of execution.
        maps: the input interval of every output, per axis; see :meth:`interval`.
    """

    size: tuple[int, ...]
    stride: tuple[Fraction, ...]
    start: tuple[int | None, ...]
    phases: tuple[tuple[int, ...], ...]
    is_global: tuple[bool, ...]
    unbounded: tuple[bool, ...]
    notes: tuple[str, ...] = ()
    layers: tuple[tuple[str, ReceptiveField], ...] = field(default=(), repr=False)
    maps: tuple[IntervalMap, ...] = field(default=(), repr=False)

    def interval(self, axis: int, index: int) -> Interval | None:
        """First and last input position, borders ignored, that output ``index`` depends on along ``axis``."""
        return self.maps[axis](index)

    def __str__(self) -> str:
        size = "×".join(map(str, self.size))
        text = size
        if all(self.is_global):
            text = f"whole image (local {size})"
        elif any(self.is_global):
            whole = ", ".join(str(axis) for axis, g in enumerate(self.is_global) if g)
            text = f"whole image along axis {whole} (local {size})"
        if any(self.unbounded):
            text = f"unbounded ({text} without offsets)"
        if any(len(set(sizes)) > 1 for sizes in self.phases):
            text += f" (by phase {_per_axis([_phases(sizes) for sizes in self.phases])})"
        return f"{text}, stride {_per_axis(self.stride)}, start {_per_axis(self.start)}"

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data; a stride is a number where it is whole and text such as ``1/2`` where not."""
        return {
            "size": list(self.size),
            "stride": [int(s) if s.denominator == 1 else str(s) for s in self.stride],
            "start": list(self.start),
            "phases": [list(p) for p in self.phases],
            "is_global": list(self.is_global),
            "unbounded": list(self.unbounded),
            "notes": list(self.notes),
            "layers": [{"name": name, **_without_layers(found.to_dict())} for name, found in self.layers],
        }


def _without_layers(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plain.items() if key != "layers"}


def _phases(sizes: Sequence[int]) -> str:
    return "/".join(map(str, sizes)) if len(sizes) <= 4 else f"{min(sizes)}..{max(sizes)}"


def _per_axis(values: Sequence[Any]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "×".join(map(str, values))


def receptive_field(
    model: nn.Module,
    input: Any,
    *,
    output: Path | None = None,
    layers: bool | str = True,
    axes: Sequence[int] | None = None,
    wrt: int = 0,
) -> ReceptiveField:
    """The theoretical receptive field of ``model``: size, stride and start per spatial axis.

    The model runs once in evaluation mode, on tensors without data where it allows that, and every operator is
    followed: branches, dilation, pooling with ``ceil_mode``, transposed convolution, resizing, crops, reshapes. The
    model, its gradients, buffers and the random state are left as they were.

    Args:
        model: any module.
        input: a tensor, a shape such as ``(1, 3, 224, 224)``, or a tuple or dict of these for several inputs.
        output: which output is meant where there are several: an index, a key, or a path of these.
        layers: also keep the field after each module that has no children; with ``"all"``, after every module.
        axes: the dims of the input to follow; from the third on, as in ``(n, c, *spatial)``, unless given.
        wrt: which of the input tensors the field lies in, in the order given.

    Raises:
        TypeError: a model that is no module, or an input of a wrong type.
        ValueError: branches of different strides that meet, and arguments outside their range.

    Source:
        Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
        >>> print(receptive_field(net, (1, 3, 64, 64)))
        8×8, stride 2, start -1
    """
    if not (isinstance(layers, bool) or layers == "all"):
        raise ValueError(f"`layers` (={layers!r}) must be True, False or 'all'; use 'all' for every module.")
    field, found = Run.of(model, input, axes, wrt).field(output, layers=layers)
    return _summary(field, tuple((name, _summary(f)) for name, f in found))


def _summary(field: Field, layers: tuple[tuple[str, ReceptiveField], ...] = ()) -> ReceptiveField:
    """The numbers of a field, one place per axis."""
    maps, is_global, unbounded, notes = [], [], [], field.notes
    for axis in range(len(field.axes)):
        field = _gathered(field, axis)
    for axis, found in enumerate(field.axes):
        if found is None:
            maps.append(IntervalMap(0, (None,)))
            notes = (*notes, f"the output does not depend on the input along axis {axis}")
        else:
            maps.append(found.map)
            if not found.is_global and not any(field.slots(axis)):
                notes = (*notes, f"the output has no positions along axis {axis}; its field is that of all it reads")
        is_global.append(found is not None and found.is_global)
        unbounded.append(found is not None and found.unbounded)
    starts = [m(0) for m in maps]
    return ReceptiveField(
        size=tuple(m.size for m in maps),
        stride=tuple(m.stride for m in maps),
        start=tuple(None if s is None else s[0] for s in starts),
        phases=tuple(m.sizes for m in maps),
        is_global=tuple(is_global),
        unbounded=tuple(unbounded),
        notes=notes,
        layers=layers,
        maps=tuple(maps),
    )


def _gathered(field: Field, axis: int) -> Field:
    """The field with all places of an axis in one slot: that of the dim with the largest step, the rest hulled."""
    slots = list(field.slots(axis))
    if not slots:
        return field
    dim = max(slots, key=lambda s: abs(s[1].weight))[0]
    others = {d for d, _ in slots if d != dim}
    if others:
        field = field.hulled(axis, others)
    alone = len(field.axes_in((dim,))) == 1
    return field.localised(dim, "") if alone and size_of(field.dims[dim]) > 1 else field
