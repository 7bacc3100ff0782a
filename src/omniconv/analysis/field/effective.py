# SPDX-License-Identifier: Apache-2.0
"""``effective_receptive_field``: how much each input position matters to an output, by gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from omniconv.analysis.field.interval import Interval
from omniconv.analysis.field.merge import MisalignedError
from omniconv.analysis.field.run import Run, evaluating
from omniconv.analysis.field.trace import changed_by
from omniconv.analysis.model_output import Path, output_of


@dataclass(frozen=True)
class EffectiveReceptiveField:
    """Where the gradient of one output position comes from, its energy (the squared gradient) summing to 1.

    Attributes:
        map: energy at every input position, one dim per spatial axis.
        profile: energy along each axis, summed over the others.
        share: how much energy an extent holds.
        extent: per axis, first and last position of the shortest run that holds ``share`` of the profile.
        size: the length of each extent.
        position: the output position that was asked for, per axis; None along an axis that the output has lost.
    """

    map: Tensor = field(repr=False)
    profile: tuple[Tensor, ...] = field(repr=False)
    share: float
    extent: tuple[Interval, ...]
    position: tuple[int | None, ...]

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(last - first + 1 for first, last in self.extent)

    def __str__(self) -> str:
        size = "×".join(map(str, self.size))
        spans = ", ".join(f"{first}..{last}" for first, last in self.extent)
        return f"{size} hold {self.share:.0%} of the energy along each axis ({spans})"

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "size": list(self.size),
            "extent": [list(e) for e in self.extent],
            "share": self.share,
            "position": list(self.position),
            "profile": [p.tolist() for p in self.profile],
            "map": self.map.tolist(),
        }


def effective_receptive_field(
    model: nn.Module,
    input: Any,
    *,
    position: Sequence[int] | None = None,
    samples: int = 8,
    seed: int = 0,
    share: float = 0.95,
    output: Path | None = None,
    axes: Sequence[int] | None = None,
    wrt: int = 0,
) -> EffectiveReceptiveField:
    """The effective receptive field of ``model`` at one output position, measured by gradient.

    The units at that position are weighted by random signs and differentiated with respect to the input, so that on
    average the energies of the channels add up. The model runs in evaluation mode and is left as it was, with its
    gradients, buffers and the random state.

    Args:
        model: any module whose output has a gradient.
        input: a shape, filled with normal numbers anew for every sample; or a tensor (or tuple or dict), used as it is.
        position: output position per spatial axis; the centre unless given.
        samples: number of runs to average.
        seed: of the inputs and signs.
        share: energy that the extents hold.
        output, axes, wrt: as in :func:`omniconv.receptive_field`.

    Raises:
        TypeError: a model that is no module, or an input of a wrong type.
        ValueError: an argument outside its range, or a model through which no gradient passes.

    Source:
        Luo, Li, Urtasun and Zemel, Understanding the Effective Receptive Field in Deep Convolutional Neural Networks,
        NeurIPS 2016.

    Example:
        >>> net = torch.nn.Sequential(*[torch.nn.Conv2d(1, 1, 3) for _ in range(8)])
        >>> effective_receptive_field(net, (1, 1, 32, 32)).map.shape
        torch.Size([32, 32])
    """
    if type(samples) is not int or samples < 1:
        raise ValueError(f"`samples` (={samples!r}) must be an integer of 1 or more; use 8.")
    if not 0 < share <= 1:
        raise ValueError(f"`share` (={share!r}) must lie between 0 and 1; use 0.95.")
    run = Run.of(model, input, axes, wrt)
    dims = _output_dims(run, output)
    generator = torch.Generator().manual_seed(seed)
    random_input = all(leaf is not run.input for leaf in tree_leaves(input))
    energy, where = torch.zeros([run.input.shape[d] for d in run.followed], dtype=torch.float64), None
    for _ in range(samples):
        gradient, where = _gradient(run, output, dims, position, generator, random_input)
        energy += _summed(gradient.detach().to("cpu", torch.float64).square(), run.followed)
    total = energy.sum()
    if not total.isfinite() or total == 0:
        raise ValueError(f"`model` passes a gradient of energy {total.item()} to its input; use finite, live weights.")
    energy /= total
    profile = tuple(_summed(energy, (axis,)) for axis in range(energy.dim()))
    return EffectiveReceptiveField(energy, profile, share, tuple(_shortest(p, share) for p in profile), where or ())


def _summed(values: Tensor, kept: Sequence[int]) -> Tensor:
    """``values`` summed over every dim but ``kept``, which come in the order given."""
    others = [d for d in range(values.dim()) if d not in kept]
    return values.permute(*kept, *others).flatten(len(kept)).sum(-1) if others else values.permute(*kept)


def _output_dims(run: Run, output: Path | None) -> tuple[int | None, ...]:
    """The dim of the output that follows each axis; by convention the same as the input's where strides disagree."""
    try:
        field, _ = run.field(output)
    except MisalignedError:
        return run.followed
    return tuple(next((d for d, _ in field.slots(axis)), None) for axis in range(len(run.followed)))


class _Watch(TorchDispatchMode):
    """Tells of every write before it happens."""

    def __init__(self, before_write: Callable[[Any], None]) -> None:
        super().__init__()
        self.before_write = before_write

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.before_write(changed_by(func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def _gradient(
    run: Run,
    output: Path | None,
    dims: Sequence[int | None],
    position: Sequence[int] | None,
    generator: torch.Generator,
    random_input: bool,
) -> tuple[Tensor, tuple[int | None, ...]]:
    """The gradient of the units at one output position, and that position."""
    with (
        evaluating(run.model, (run.args, run.kwargs)) as before_write,
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        source = run.input.detach()
        if random_input:
            source = torch.randn(source.shape, generator=generator, dtype=torch.float64).to(source)
        source = source.clone().requires_grad_()
        args, kwargs = run.called(lambda n, v: source if n == run.place else v)
        with _Watch(before_write):
            result = output_of(run.result(args, kwargs), output)
            where = _checked(position, dims, result.shape)
            index = [slice(None)] * result.dim()
            for dim, at in zip(dims, where, strict=True):
                if dim is not None and at is not None:
                    index[dim] = slice(at, at + 1)
            units = result[tuple(index)]
            if not units.requires_grad:
                raise ValueError("`model` passes no gradient to its input; use one that does not detach it.")
            signs = torch.randint(0, 2, units.shape, generator=generator) * 2 - 1
            (gradient,) = torch.autograd.grad(units, source, signs.to(units), allow_unused=True)
    if gradient is None:
        raise ValueError("`model` passes no gradient to its input; use one that does not detach it.")
    return gradient, where


def _checked(
    position: Sequence[int] | None, dims: Sequence[int | None], shape: Sequence[int]
) -> tuple[int | None, ...]:
    sizes = [None if d is None else shape[d] for d in dims]
    if position is None:
        return tuple(None if n is None else n // 2 for n in sizes)
    given = tuple(position)
    pairs = zip(given, sizes, strict=False)
    if len(given) != len(sizes) or any(n is not None and (type(p) is not int or not -n <= p < n) for p, n in pairs):
        ranges = ", ".join("any" if n is None else f"0 to {n - 1}" for n in sizes)
        raise ValueError(f"`position` (={position!r}) must be one output position per spatial axis; use {ranges}.")
    return tuple(None if n is None else p % n for p, n in zip(given, sizes, strict=True))


def _shortest(profile: Tensor, share: float) -> Interval:
    """The shortest run of positions that holds ``share`` of a profile; the first of several."""
    sums = [0.0, *profile.cumsum(0).tolist()]
    wanted = share * sums[-1] * (1 - 1e-12)
    runs = []
    for first in range(len(sums) - 1):
        last = next((n for n in range(first, len(sums) - 1) if sums[n + 1] - sums[first] >= wanted), None)
        if last is not None:
            runs.append((last - first, first, last))
    _, first, last = min(runs)
    return first, last
