# SPDX-License-Identifier: Apache-2.0
"""Steps of a graph given their numbers on a denser map, and a step more where torch has no numbers for it."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from omniconv.core.layer import PlannedLayer

from .windows import ARGUMENTS, Ints, Window, averaged, bare, flat, padded


def respace(root: nn.Module, node: fx.Node, window: Window, removed: Ints, step: Ints) -> None:
    """Change a step whose input lost strides of ``removed``, and whose own is to be ``step``."""
    if window.kind == "slice":
        _respace_slice(node, window, removed, step)
    elif window.kind == "pad":
        _respace_pad(root, node, window, removed)
    elif window.kind == "avg_pool" and (window.ceil or set(removed) != {1}):
        with node.graph.inserting_before(node):
            new = node.graph.call_function(averaged, (node.all_input_nodes[0], bare(window), removed, step))
        node.replace_all_uses_with(new)
        node.graph.erase_node(node)
    elif window.kind == "avg_pool":
        _renumber(root, node, window, {"stride": step})
    else:
        _respace_taps(root, node, window, removed, step)


def replanned(layer: PlannedLayer, window: Window) -> PlannedLayer:
    """A layer of the same class with the very parameters of ``layer``, and other numbers.

    Raises:
        TypeError, ValueError: the class cannot be made with these numbers.
    """
    kind, names = type(layer), inspect.signature(type(layer)).parameters.keys()
    if not kind.__module__.startswith("omniconv."):
        raise TypeError(f"is of class {kind.__name__}, which may compute something else than its base")
    own = dict(layer.named_parameters(recurse=False)) | {"bias": layer.bias}
    numbers = {"stride": window.stride, "padding": window.padding, "dilation": window.dilation}
    given: dict[str, Any] = {name: getattr(layer, name) for name in names if hasattr(layer, name)}
    given |= {name: own.get(name) is not None for name in given if name.endswith("bias")}
    given |= numbers | {"channels": layer.in_channels, "device": "meta"}
    new = kind(**{name: value for name, value in given.items() if name in names})
    if (new.stride, new.dilation, new.problem.pads()) != (window.stride, window.dilation, window.padding):
        raise ValueError(f"is of class {kind.__name__}, which takes no such padding or dilation")
    if new.state_dict().keys() != layer.state_dict().keys():
        raise ValueError(f"holds other entries than its class {kind.__name__} makes")
    for name, parameter in own.items():
        new.register_parameter(name, parameter)
    kept = {key: value for key, value in vars(layer).items() if key not in vars(new) or key.endswith("_hooks")}
    vars(new).update(kept | {"training": layer.training})
    return new


def _respace_taps(root: nn.Module, node: fx.Node, window: Window, removed: Ints, step: Ints) -> None:
    new, layer = window.spread(removed, step), _module(root, node)
    pairs: Any = new.padding if window.fixed is not None else None
    if pairs is None or not (isinstance(layer, PlannedLayer) or _takes(new)):
        _pad_before(node, window, removed, pairs)
        pairs = ((0, 0),) * len(removed)
    if isinstance(layer, PlannedLayer):
        changed = Window("convolution", window.kernel, step, new.dilation, pairs)
        _put(root, layer, replanned(layer, changed))
        return
    numbers: dict[str, Any] = {"stride": step, "padding": tuple(before for before, _ in pairs)}
    numbers["dilation"] = new.dilation
    _renumber(root, node, window, numbers | ({"ceil_mode": False} if window.ceil else {}))


def _takes(window: Window) -> bool:
    """Whether torch takes the padding as one number an axis."""
    pairs: Any = window.padding
    small = window.kind == "convolution" or all(
        2 * before <= k for (before, _), k in zip(pairs, window.kernel, strict=True)
    )
    return small and all(before == after for before, after in pairs)


def _pad_before(node: fx.Node, window: Window, removed: Ints, pairs: Any) -> None:
    mode = "constant" if window.mode == "zeros" else window.mode
    value = None if mode != "constant" else float("-inf") if window.kind == "max_pool" else 0.0
    x = node.all_input_nodes[0]
    with node.graph.inserting_before(node):
        if pairs is None:
            new = node.graph.call_function(padded, (x, bare(window), removed, mode, value))
        else:
            new = node.graph.call_function(F.pad, (x, flat(pairs), mode, value))
    if node.args:
        node.args = (new, *node.args[1:])
    else:
        node.kwargs = node.kwargs | {"input": new}


def _renumber(root: nn.Module, node: fx.Node, window: Window, numbers: dict[str, Any]) -> None:
    module = _module(root, node)
    if module is None:
        given = dict(zip(ARGUMENTS[window.kind], node.args, strict=False)) | dict(node.kwargs)
        node.args, node.kwargs = (given.pop("input"),), given | numbers
    else:
        for name, value in numbers.items():
            setattr(module, name, value)


def _respace_slice(node: fx.Node, window: Window, removed: Ints, step: Ints) -> None:
    pairs: Any = window.fixed
    x, index = node.args
    places: list[Any] = list(index)  # type: ignore[arg-type]  # the survey wrote it as a tuple
    for axis, place in enumerate(window.where):
        if place >= 0:
            places[place] = slice(-pairs[axis][0] * removed[axis], None, step[axis])
    node.args = (x, tuple(places))


def _respace_pad(root: nn.Module, node: fx.Node, window: Window, removed: Ints) -> None:
    module = _module(root, node)
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    amounts = list(given if module is None else module.padding)
    pairs: Any = window.fixed
    for place, pair, r in zip(window.where, pairs, removed, strict=True):
        if place >= 0:
            amounts[2 * place : 2 * place + 2] = [r * amount for amount in pair]
    if module is not None:
        module.padding = tuple(amounts)
    elif len(node.args) > 1:
        node.args = (node.args[0], tuple(amounts), *node.args[2:])
    else:
        node.kwargs = node.kwargs | {"pad": tuple(amounts)}


def _module(root: nn.Module, node: fx.Node) -> Any:
    return root.get_submodule(str(node.target)) if node.op == "call_module" else None


def _put(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """``new`` in every place where ``old`` stands."""
    for path, module in list(root.named_modules(remove_duplicate=False)):
        if module is old:
            root.set_submodule(path, new)
