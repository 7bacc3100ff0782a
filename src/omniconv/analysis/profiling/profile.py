# SPDX-License-Identifier: Apache-2.0
"""``profile``: what every layer of a model costs, counted in one pass through it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from omniconv.analysis.arguments import arguments_of
from omniconv.analysis.profiling.aten_call import Work
from omniconv.analysis.profiling.result import Profile, Row
from omniconv.analysis.profiling.watch import ModuleCall, Seen, watched

if TYPE_CHECKING:
    from omniconv.analysis.machine import Machine


def profile(
    model: nn.Module,
    input: Any,
    *,
    depth: int | None = None,
    receptive_field: bool = True,
    time: bool = False,
    seconds: float = 5.0,
    machine: Machine | None = None,
) -> Profile:
    """Count what every layer of ``model`` costs on ``input``: parameters, MACs, bytes, receptive field, time if asked.

    The model runs once, in the mode it is in. Convolutions, whoever calls them, are counted from their numbers; matrix
    products, attention and recurrent layers beside them; everything else in operations of its own. What no rule knows
    is named, and makes the result partial. Parameters, buffers, gradients, flags, hooks and random states are left as
    they were, also by a model that fails. Lazy modules are given their sizes on a copy.

    Args:
        model: any module.
        input: a tensor; a shape; a tuple of tensors and shapes, passed by position; or a dict of them, passed by name.
            A shape becomes random numbers of the model's dtype on its device, the same every time.
        depth: how deep the table looks into the model: 1 for its children; None for every call.
        receptive_field: also follow the receptive field, which takes a pass of its own.
        time: also run every multiplying call by itself, in rounds, and the whole model with them.
        seconds: for those timings together.
        machine: a measured machine (``measure_machine``), whose roofline then says what memory bounds.

    Returns:
        The rows in the order they ran, and their totals.

    Raises:
        TypeError: ``model`` is no module, or ``input`` neither tensors nor shapes.
        ValueError: a shape with a negative size, a depth below 1, or timing where there is no data (meta tensors).

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU())
        >>> found = profile(net, (1, 3, 32, 32))
        >>> found.macs, found.params, found.other_ops
        (442368, 448, 16384)
    """
    args, kwargs = arguments_of(input, model)
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int)):
        raise TypeError(f"`depth` (={depth!r}) must be an integer or None; use 1 for the children of the model.")
    if depth is not None and depth < 1:
        raise ValueError(f"`depth` (={depth}) must be at least 1; use 1 for the children of the model.")
    notes: list[str] = []
    if any(is_lazy(t) for t in (*model.parameters(), *model.buffers())):
        model = _materialised(model, args, kwargs)
        notes.append("lazy modules were given their sizes on a copy; the model itself is as it was")
    seen = watched(model, args, kwargs)
    rows = _rows(model, seen)
    field = None
    if receptive_field:
        from omniconv.analysis.profiling.fields import fields_of

        field, per_call, said = fields_of(model, args, kwargs)
        rows = [row.with_field(per_call.get((row.name, row.call))) for row in rows]
        notes += said
    measured = None
    if time:
        from omniconv.analysis.profiling.times import timed

        rows, measured = timed(model, args, kwargs, rows, seconds)
    return Profile(
        model=type(model).__name__,
        rows=tuple(rows),
        params=sum(_sizes(model)),
        activation_bytes=sum(call.new_bytes for call in seen),
        not_run=_not_run(model, seen),
        receptive_field=field,
        notes=tuple(notes),
        depth=depth,
        machine=machine,
        time=measured,
    )


def _materialised(model: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> nn.Module:
    """A copy of ``model`` whose lazy modules have seen their input."""
    # torch copies lazy parameters but not lazy buffers.
    lazy: list[Any] = [b for b in model.buffers() if is_lazy(b)]
    model = copy.deepcopy(model, {id(b): type(b)(device=b.device, dtype=b.dtype) for b in lazy})
    with torch.random.fork_rng(devices=range(torch.accelerator.device_count())), torch.no_grad():
        model(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    return model


def _sizes(model: nn.Module) -> list[int]:
    """Elements of each parameter; 0 for one of a lazy module that did not run."""
    every: list[Any] = list(model.parameters())
    return [0 if is_lazy(p) else p.numel() for p in every]


def _rows(model: nn.Module, seen: Iterable[Seen]) -> list[Row]:
    """One row for each product, and one for all else that a module call did itself."""
    sizes = _sizes(model)
    met: set[int] = set()
    rows: list[list[Seen]] = []
    beside: dict[ModuleCall, list[Seen]] = {}
    for call in seen:
        if call.work is not None and call.work.family:
            rows.append([call])
        elif call.work is None or call.work.other_ops or call.parameters:
            if call.module not in beside:
                beside[call.module] = []
                rows.append(beside[call.module])
            beside[call.module].append(call)
    result = []
    for calls in rows:
        used = frozenset[int]().union(*(call.parameters for call in calls))
        fresh = used - met
        met |= used
        result.append(_row(calls, sum(sizes[i] for i in fresh), sum(sizes[i] for i in used - fresh)))
    return result


def _row(calls: Sequence[Seen], params: int, shared: int) -> Row:
    module = calls[0].module
    known = [call.work for call in calls if call.work is not None]
    main = known[0] if len(calls) == 1 and known else Work()
    return Row(
        name=module.name,
        module=module.kind,
        call=module.turn,
        family=main.family or "other",
        operators=tuple(Counter(call.operator for call in calls).items()),
        params=params,
        shared_params=shared,
        macs=sum(work.macs for work in known),
        bias_adds=sum(work.bias_adds for work in known),
        sampling=sum(work.sampling for work in known),
        exponentials=sum(work.exponentials for work in known),
        other_ops=sum(work.other_ops for work in known),
        bytes=sum(work.bytes for work in known),
        channels=main.channels,
        sizes=main.sizes,
        batch=main.batch,
        problem=main.problem,
        uncounted=tuple(Counter(call.operator for call in calls if call.work is None).items()),
        recipe=calls[0].recipe if main.family else None,
    )


def _not_run(model: nn.Module, seen: Iterable[Seen]) -> tuple[str, ...]:
    """Modules with parameters of their own, none of which any call read."""
    used = frozenset[int]().union(*(call.parameters for call in seen))
    numbers = {id(p): i for i, p in enumerate(model.parameters())}
    return tuple(
        name
        for name, module in model.named_modules()
        if (own := [numbers[id(p)] for p in module.parameters(recurse=False)]) and used.isdisjoint(own)
    )
