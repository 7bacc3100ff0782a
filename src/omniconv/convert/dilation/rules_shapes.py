# SPDX-License-Identifier: Apache-2.0
"""What steps do with a map that move, cut, join or sum up its dims: seen on an example of the map, without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor

from .calls import Call
from .rules_windows import slid
from .survey import ANY, AXES, Many, Map, Size, Source, State, Survey, rule
from .windows import Window

MOVES = ("moveaxis", "movedim", "permute", "squeeze", "swapaxes", "swapdims", "transpose", "unsqueeze")
CUTS = ("flatten", "reshape", "unflatten", "view")
SUMS = ("amax", "amin", "logsumexp", "max", "mean", "median", "min", "norm", "prod", "std", "sum", "var")
ALONG = ("cumsum", "flip", "glu", "log_softmax", "normalize", "roll", "softmax", "softmin", "sort")


@rule(*MOVES)
def _move(survey: Survey, call: Call, map: Map) -> State:
    after = survey.evaluated(call, {call.node.all_input_nodes[0]: map.example})
    moved = map.like(after) if isinstance(after, Tensor) else None
    return moved or survey.gathered(call, map)


@rule(*CUTS)
def _cut(survey: Survey, call: Call, map: Map) -> State:
    before = map.example
    after = survey.evaluated(call, {call.node.all_input_nodes[0]: before})
    if not isinstance(after, Tensor):
        return survey.gathered(call, map, why="has sizes that do not follow those of the map")
    found = map.like(after)
    steps = [before.stride(d) for d in map.dims]
    if found is not None and steps == [after.stride(d) for d in found.dims]:
        return found
    return survey.gathered(call, map, "flat", "lays positions side by side in one dim")


@rule(*SUMS)
def _sum(survey: Survey, call: Call, map: Map) -> State:
    if len(survey.inputs(call.node)) > 1:  # the larger of two tensors
        return survey.joined(call, survey.inputs(call.node))
    before = map.example
    after = survey.evaluated(call, {call.node.all_input_nodes[0]: before})
    several = isinstance(after, tuple)
    after = after[0] if several else after
    if not isinstance(after, Tensor):
        return survey.gathered(call, map)
    found = map.like(after)
    if found is not None:
        return Many((found, found)) if several else found
    axes = AXES[: len(map.dims)]
    if set(axes) & set(after.shape):
        return survey.gathered(call, map, why="reads along some axes of the map, and not along others")
    whole = after.numel() * prod(axes) == before.numel()
    how = "other" if not whole else "mean" if call.name == "mean" else "pooled"
    return survey.gathered(call, map, how, "reads all positions")


@rule("adaptive_avg_pool", "adaptive_max_pool")
def _adaptive(survey: Survey, call: Call, map: Map) -> State:
    size: Any = call.get(1, "output_size")
    sizes = set(size) if isinstance(size, list | tuple) else {size}
    if not map.last or call.dim != survey.dim:
        return survey.gathered(call, map)
    mean = sizes == {1} and call.name == "adaptive_avg_pool"
    return survey.gathered(call, map, "mean" if mean else "pooled", "reads all positions")


@rule(*ALONG)
def _along(survey: Survey, call: Call, map: Map) -> State:
    dims: Any = call.get(1, "dim")
    dims = dims if isinstance(dims, list | tuple) else (dims,)
    if not all(isinstance(d, int) and d % map.rank not in map.dims for d in dims):
        return survey.gathered(call, map, why="reads along the positions")
    after = survey.evaluated(call, {call.node.all_input_nodes[0]: map.example})
    after = after[0] if isinstance(after, tuple) else after
    return (map.like(after) if isinstance(after, Tensor) else None) or survey.gathered(call, map)


@rule("cat", "concat", "concatenate")
def _cat(survey: Survey, call: Call, map: Map) -> State:
    dim = call.get(1, "dim", 0)
    if not isinstance(dim, int) or dim % map.rank in map.dims:
        return survey.gathered(call, map, why="lays maps side by side along their positions")
    result = survey.joined(call, survey.inputs(call.node))
    parts = [survey.states[node] for node in call.get(0, "tensors")]
    known = [state.sizes[dim] if isinstance(state, Map) else ANY for state in parts]
    return result.with_channels(ANY if ANY in known else sum(known), dim) if isinstance(result, Map) else result


@rule("chunk", "split", "tensor_split")
def _split(survey: Survey, call: Call, map: Map) -> State:
    dim = call.get(2, "dim", 0)
    if not isinstance(dim, int) or dim % map.rank in map.dims:
        return survey.gathered(call, map, why="cuts the map into parts of its positions")
    after = survey.evaluated(call, {call.node.all_input_nodes[0]: map.example})
    parts = [map.like(part) for part in after] if isinstance(after, tuple | list) else []
    maps = tuple(part for part in parts if part is not None)
    return Many(maps) if maps else survey.gathered(call, map)


@rule("size", "getattr")
def _shape(survey: Survey, call: Call, map: Map) -> State:
    value = survey.evaluated(call, {call.node.all_input_nodes[0]: map.example})
    if isinstance(value, Tensor):
        return survey.gathered(call, map)
    if call.name == "getattr" and call.get(1, "name") != "shape":
        return Size(value)
    counts = set(AXES) & set(value if isinstance(value, tuple) else (value,))
    return Size(value, Source(call.node, map, "other", "counts the positions of the map") if counts else None)


@rule("dim")
def _rank(survey: Survey, call: Call, map: Map) -> State:
    return Size(map.rank)


@rule("getitem")
def _getitem(survey: Survey, call: Call, map: Map) -> State:
    index = _spelled_out(call.get(1, "index"), map.rank)
    if index is None:
        return survey.gathered(call, map)
    dims = [at for at, entry in enumerate(index) if entry is not None]
    where = tuple(dims[d] for d in map.dims)
    cuts = [index[place] for place in where]
    if not all(isinstance(c, slice) and c.stop is None and (c.start or 0) >= 0 and (c.step or 1) > 0 for c in cuts):
        return survey.gathered(call, map, why="picks some positions of the map")
    whole = tuple(slice(None) if at in where else entry for at, entry in enumerate(index))
    found = map.like(map.example[whole])
    if found is None or all(cut == slice(None) for cut in cuts):
        return found or survey.gathered(call, map)
    call.node.args = (call.node.args[0], tuple(index))
    steps, starts = tuple(c.step or 1 for c in cuts), tuple((-(c.start or 0), 0) for c in cuts)
    return replace(found, stride=slid(survey, call, map, Window.of_one_tap("slice", steps, starts, where)).stride)


def _spelled_out(given: Any, rank: int) -> list[Any] | None:
    """An index with an entry for each dim, or None where it has others than integers, slices of these, and None."""
    entries: Sequence[Any] = given if isinstance(given, tuple) else (given,)
    numbers = [n for e in entries for n in ((e.start, e.stop, e.step) if isinstance(e, slice) else (e,))]
    if not all(n is None or n is Ellipsis or isinstance(n, int) for n in numbers):
        return None
    missing = rank - sum(e is not None and e is not Ellipsis for e in entries)
    found: list[Any] = []
    for entry in entries if Ellipsis in entries else (*entries, Ellipsis):
        found += [slice(None)] * missing if entry is Ellipsis else [entry]
    return found
