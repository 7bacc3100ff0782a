# SPDX-License-Identifier: Apache-2.0
"""Rules of operators that move elements: views, slices, joins, shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

from omniconv.analysis.field import reads
from omniconv.analysis.field.joins import concatenated, written
from omniconv.analysis.field.layout import Field, Slot, plain
from omniconv.analysis.field.merge import merged
from omniconv.analysis.field.moves import expanded, flipped, repeated, reshaped, selected, sliced, unfolded
from omniconv.analysis.field.rules import Call, rule, unknown


@rule("_reshape_alias", "_unsafe_view", "flatten", "reshape", "view", "view_copy", "unflatten")
def _view(call: Call) -> Field:
    same = prod(call.first.shape) == prod(call.shape)
    return reshaped(call.first, call.shape, call.why) if same else unknown(call)


@rule("permute")
def _permute(call: Call) -> Field:
    return call.first.moved(call.dims("dims"))


@rule("transpose", "t", "numpy_T")
def _transpose(call: Call) -> Field:
    order = list(range(len(call.first.dims)))
    if "dim0" in call.arguments:
        a, b = call.dim("dim0"), call.dim("dim1")
        order[a], order[b] = b, a
    else:
        order.reverse()
    return call.first.moved(order)


@rule("unsqueeze")
def _unsqueeze(call: Call) -> Field:
    dims = list(call.first.dims)
    dims.insert(call.dim(ndim=len(dims) + 1), ())
    return call.first.with_dims(dims)


@rule("squeeze")
def _squeeze(call: Call) -> Field:
    gone = {d for d in call.dims() if call.first.shape[d] == 1}
    return call.first.with_dims([dim for d, dim in enumerate(call.first.dims) if d not in gone])


@rule("expand", "expand_copy", "broadcast_to")
def _expand(call: Call) -> Field:
    return expanded(call.first, call.shape)


@rule("slice")
def _slicing(call: Call) -> Field:
    d = call.dim()
    return sliced(call.first, d, _start(call), call["step"], call.shape[d], call.why)


def _start(call: Call) -> int:
    size, start = call.first.shape[call.dim()], int(call.get("start") or 0)
    return max(start + size, 0) if start < 0 else min(start, size)


@rule("select")
def _selecting(call: Call) -> Field:
    d = call.dim()
    return selected(call.first, d, call["index"] % call.first.shape[d], call.why)


@rule("chunk", "split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes")
def _splitting(call: Call) -> Sequence[Field]:
    d, start, found = call.dim(), 0, []
    for shape in call.shapes:
        found.append(sliced(call.first, d, start, 1, shape[d], call.why))
        start += shape[d]
    return found


@rule("unbind")
def _unbinding(call: Call) -> Sequence[Field]:
    return [selected(call.first, call.dim(), index, call.why) for index in range(len(call.shapes))]


@rule("cat", "concat", "concatenate")
def _cat(call: Call) -> Field:
    # torch lets an empty one-dimensional tensor stand among any others
    fields = [f for f in map(call.fields, call["tensors"]) if len(f.dims) == len(call.shape)]
    return concatenated(fields, call.dim(ndim=len(call.shape)), call.shape, call.why)


@rule("stack")
def _stack(call: Call) -> Field:
    d = call.dim(ndim=len(call.shape))
    fields = map(call.fields, call["tensors"])
    return call.merged(*(f.with_dims([*f.dims[:d], (), *f.dims[d:]]) for f in fields))


@rule("flip")
def _flip(call: Call) -> Field:
    return flipped(call.first, call.dims("dims"))


@rule("roll")
def _roll(call: Call) -> Field:
    """A shift; what comes round the border is left out, as in circular padding."""
    field = call.first
    if not call["dims"]:
        return reshaped(reshaped(field, (prod(field.shape),), call.why).collapsed((0,), call.why), call.shape, call.why)
    for shift, d in zip(call["shifts"], call.dims("dims"), strict=True):
        if field.axes_in((d,)):
            field = field.windowed(d, reads.point(-shift), field.shape[d], call.why)
            field = field.noted(f"{call.why} wraps around the border, which the field leaves out")
    return field


@rule("repeat", "tile")
def _repeat(call: Call) -> Field:
    return repeated(call.first, call.get("repeats", "dims"))


@rule("repeat_interleave")
def _repeat_interleave(call: Call) -> Field:
    if not isinstance(call.get("repeats"), int) or call.get("dim") is None:
        return unknown(call)
    d = call.dim()
    return call.first.with_dim(d, (*call.first.dims[d], *plain(call["repeats"])))


@rule("unfold")
def _unfolding(call: Call) -> Field:
    return unfolded(call.first, call.dim("dimension"), call["size"], call["step"], call.why)


@rule("as_strided")
def _as_strided(call: Call) -> Field:
    """The view that copies of a layout make is the tensor itself; any other is not followed."""
    source = next(call.tensors())
    same = tuple(call["size"]) == tuple(source.shape) and tuple(call["stride"]) == source.stride()
    return call.first if same and not call.get("storage_offset") else unknown(call)


@rule("view_as_real")
def _view_as_real(call: Call) -> Field:
    return call.first.with_dims([*call.first.dims, (Slot(2),)])


@rule("view_as_complex")
def _view_as_complex(call: Call) -> Field:
    return call.first.with_dims(call.first.dims[:-1])


@rule("pixel_shuffle")
def _pixel_shuffle(call: Call) -> Field:
    """Blocks of r² channels become r × r positions."""
    field, r = call.first, call["upscale_factor"]
    *batch, c, h, w = field.shape
    n = len(batch)
    split = reshaped(field, (*batch, c // (r * r), r, r, h, w), call.why)
    return reshaped(split.moved((*range(n), n, n + 3, n + 1, n + 4, n + 2)), call.shape, call.why)


@rule("pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> Field:
    """Blocks of r × r positions become r² channels."""
    field, r = call.first, call["downscale_factor"]
    *batch, c, h, w = field.shape
    n = len(batch)
    split = reshaped(field, (*batch, c, h // r, r, w // r, r), call.why)
    return reshaped(split.moved((*range(n), n, n + 2, n + 4, n + 1, n + 3)), call.shape, call.why)


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(call: Call) -> Field:
    field, groups = call.first, call["groups"]
    n, c, *sizes = field.shape
    split = reshaped(field, (n, groups, c // groups, *sizes), call.why)
    return reshaped(split.moved((0, 2, 1, *range(3, len(split.dims)))), call.shape, call.why)


def written_back(call: Call, index: int, piece: Field) -> Field:
    """What the viewed tensor depends on once output ``index`` of the view ``call`` holds ``piece``."""
    whole, name, why = call.first, call.name.removeprefix("aten::"), call.why
    if name == "permute":
        order = call.dims("dims")
        return piece.moved([order.index(d) for d in range(len(order))])
    if name in {"transpose", "t", "numpy_T"}:
        return _transpose(replace(call, fields=lambda _: piece))
    if prod(piece.shape) == prod(whole.shape):
        return reshaped(piece, whole.shape, why)
    if name == "slice":
        d, start, step = call.dim(), _start(call), call["step"]
    elif name in {"select", "unbind"}:
        d, step = call.dim(), 1
        start = index if name == "unbind" else call["index"] % whole.shape[d]
        piece = piece.with_dims([*piece.dims[:d], (), *piece.dims[d:]])
    elif "split" in name or "chunk" in name:
        d, step = call.dim(), 1
        start = sum(shape[d] for shape in call.shapes[:index])
    else:
        parts = [f.reduced(range(len(f.dims)), why) for f in (whole, piece)]
        return merged(parts, whole.shape, why).noted(f"{why} was written through, and the whole is taken to change")
    return written(whole, piece, d, start, step, why)
