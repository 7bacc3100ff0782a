# SPDX-License-Identifier: Apache-2.0
"""What convolutions, pools, pads and norms do with a map."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx

from omniconv.core.family import family_of

from .calls import Call
from .survey import ANY, AXES, Fixed, Gathered, Map, Size, State, Survey, rule
from .windows import ARGUMENTS, Window

COMPUTED = "has numbers that are computed while the network runs"
STATISTICS = "takes statistics over the positions"
PADS = ("circular_pad", "constant_pad", "reflection_pad", "replication_pad", "zero_pad")


def slid(survey: Survey, call: Call, map: Map, window: Window) -> Map:
    """The map behind a window."""
    survey.windows[call.node] = window
    return replace(map, stride=tuple(s * t for s, t in zip(map.stride, window.stride, strict=True)))


def _channels(survey: Survey, call: Call, layer: Any) -> int:
    """How many a convolution or a linear map makes."""
    weight = layer.weight if layer is not None else getattr(survey.states.get(call.get(1, "weight")), "value", None)
    return int(weight.shape[0]) if isinstance(weight, Tensor) else ANY


def _fits(survey: Survey, call: Call, map: Map) -> bool:
    return map.last and call.dim == survey.dim


@rule("convolution", "max_pool", "avg_pool")
def _taps(survey: Survey, call: Call, map: Map) -> State:
    if _takes_all(survey, call, map):
        call.node.target = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[call.dim - 1]
        call.node.args, call.node.kwargs = (call.node.all_input_nodes[0], 1), {}
        return survey.gathered(call, map, "mean", "reads all positions")
    if not _fits(survey, call, map) or any(not isinstance(s, Fixed) for s in survey.inputs(call.node)[1:]):
        return survey.gathered(call, map)
    given = {name: call.get(place, name) for place, name in enumerate(ARGUMENTS[call.name]) if place}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("return_indices"):
        return survey.gathered(call, map, why="returns the places of its maxima, which a denser map numbers anew")
    if call.name == "convolution":
        weight: Any = survey.states[given["weight"]] if call.module is None else Fixed(given["weight"])
        given["kernel_size"] = getattr(weight.value, "shape", ())[2:] or None
        given |= {"padding_mode": getattr(call.module, "padding_mode", "zeros"), "stride": given.get("stride", 1)}
        map = map.with_channels(_channels(survey, call, call.module), -call.dim - 1)
    try:
        return slid(survey, call, map, Window.of(call.name, call.dim, given))
    except (TypeError, ValueError):
        return survey.gathered(call, map, why=COMPUTED)


def _takes_all(survey: Survey, call: Call, map: Map) -> bool:
    """Whether the kernel of a mean is the size of its map."""
    if call.name != "avg_pool" or call.module is not None or not _fits(survey, call, map):
        return False
    kernel = fx.map_arg(call.get(1, "kernel_size"), lambda n: getattr(survey.states[n], "value", None))
    return isinstance(kernel, list | tuple) and tuple(kernel) == AXES[: survey.dim]


@rule("planned")
def _planned(survey: Survey, call: Call, map: Map) -> State:
    layer: Any = call.module
    problem = layer.problem
    if not _fits(survey, call, map) or survey.inputs(call.node)[0] is not map:
        return survey.gathered(call, map)
    if problem.transposed:
        return _upsampled(survey, call, map)
    numbers = (problem.kernel_size, problem.stride, problem.dilation, problem.padding)
    made = map.with_channels(problem.out_channels, -call.dim - 1)
    result = slid(survey, call, made, Window("convolution", *numbers, problem.padding_mode))
    if family_of(problem).batched == ("input",):
        return survey.joined(call, [result, *survey.inputs(call.node)[1:]])
    del survey.windows[call.node]
    for place in (map, result):
        survey.demand(call, place, "has taps or weights that differ from position to position")
    return result


@rule("conv_transpose")
def _upsampled(survey: Survey, call: Call, map: Map) -> State:
    if not _fits(survey, call, map):
        return survey.gathered(call, map)
    stride: Any = call.get(3, "stride", 1)
    strides = stride if isinstance(stride, list | tuple) else (stride,) * len(map.stride)
    if not all(isinstance(s, int) for s in strides):
        return survey.gathered(call, map, why=COMPUTED)
    survey.demand(call, map, "puts positions between those of the map")
    map = map.with_channels(getattr(call.module, "out_channels", ANY), -call.dim - 1)
    return replace(map, stride=tuple(s / int(t) for s, t in zip(map.stride, strides, strict=True)))


@rule("pad", *PADS)
def _pad(survey: Survey, call: Call, map: Map) -> State:
    amounts = call.get(1, "pad" if call.module is None else "padding")
    if not isinstance(amounts, list | tuple) or not all(isinstance(a, int) for a in amounts):
        return survey.gathered(call, map, why=COMPUTED)
    mode = call.get(2, "mode", "constant") if call.module is None else call.name.removesuffix("_pad")
    mode = "constant" if mode == "zero" else mode
    where = tuple(map.rank - 1 - d if 2 * (map.rank - 1 - d) < len(amounts) else -1 for d in map.dims)
    pairs = tuple((amounts[2 * w], amounts[2 * w + 1]) if w >= 0 else (0, 0) for w in where)
    return slid(survey, call, map, Window.of_one_tap("pad", (1,) * len(where), pairs, where, mode))


@rule("batch_norm", "sync_batch_norm")
def _batch_norm(survey: Survey, call: Call, map: Map) -> State:
    own = call.get(1, "running_mean") is None or (call.module is None and call.get(5, "training", default=False))
    if 1 in map.dims:
        return survey.gathered(call, map)
    return survey.demand(call, map, STATISTICS) if own else map


@rule("group_norm", "instance_norm")
def _norm_over_positions(survey: Survey, call: Call, map: Map) -> State:
    return survey.demand(call, map, STATISTICS)


@rule("layer_norm")
def _layer_norm(survey: Survey, call: Call, map: Map) -> State:
    shape = call.get(1, "normalized_shape")
    if not isinstance(shape, int | list | tuple):
        return survey.gathered(call, map, why=COMPUTED)
    over = 1 if isinstance(shape, int) else len(shape)
    return survey.demand(call, map, STATISTICS) if any(d >= map.rank - over for d in map.dims) else map


@rule("linear")
def _linear(survey: Survey, call: Call, map: Map) -> State:
    others = survey.inputs(call.node)[1:]
    if map.rank - 1 in map.dims or any(isinstance(s, Gathered | Size) for s in others):
        return survey.gathered(call, map)
    made = map.with_channels(_channels(survey, call, call.module), -1)
    return survey.joined(call, [made, *(s for s in others if not isinstance(s, Fixed))])


@rule("interpolate", "upsample", "upsampling_bilinear", "upsampling_nearest", "pixel_shuffle", "pixel_unshuffle")
def _resampled(survey: Survey, call: Call, map: Map) -> State:
    return survey.gathered(call, map, why="resamples the map, whose positions then stand elsewhere")
