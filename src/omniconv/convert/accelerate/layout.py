# SPDX-License-Identifier: Apache-2.0
"""One layout for a whole graph: inputs are checked and converted once where they come in, and outputs as they leave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from omniconv.core import native
from omniconv.core.chain import FollowedConv
from omniconv.core.native import FORMATS, stays_step

from .reading import memory_of, written


@stays_step
def channels_innermost(value: Any) -> Any:
    """An image or volume with its channels innermost; anything else as it is."""
    return native.channels_innermost(value)


@stays_step
def in_order(value: Any) -> Any:
    """A tensor with its axes in order, as who reads a network's outputs by ``view`` expects."""
    return value.contiguous() if isinstance(value, Tensor) else value


@stays_step
def ordered_as(value: Any, input: Any) -> Any:
    """A tensor with its axes in order if an input's are, as networks keep the layout that they are given."""
    return in_order(value) if isinstance(input, Tensor) and input.is_contiguous() else value


def apart(value: Any) -> Any:
    """A copy of a tensor that the network keeps, for whoever may write to it."""
    return value.clone() if isinstance(value, Tensor) else value


@stays_step
def left_out(value: Any, name: str) -> None:
    """Raise ValueError for an argument that the example leaves out."""
    if value is not None:
        raise ValueError(
            f"`{name}` (={type(value).__name__}) must be None, as in the example that the network was accelerated "
            "with; accelerate it with an example that has it."
        )


@stays_step
def given(value: Any, name: str) -> None:
    """Raise ValueError for an argument that only the example has."""
    if value is None:
        raise ValueError(
            f"`{name}` (=None) must be given, as in the example that the network was accelerated with; accelerate it "
            "with an example that leaves it out."
        )


@stays_step
def batched(value: Any, least: int, most: float, seen: int) -> None:
    """Raise ValueError for a tensor of fewer or more axes, which the network would compute in another way."""
    if not least <= value.dim() <= most:
        raise ValueError(
            f"an input of {value.dim()} axes must have {seen} here, as in the example that the network was accelerated "
            "with, because a norm or a constant counts them; accelerate it with an example of as many."
        )


CHECKS = (given, left_out, batched)


def laid(graph: fx.GraphModule, *, innermost: bool) -> fx.GraphModule:
    """The same graph, sharing its modules, that returns what is in order as such, whatever lies how within.

    With ``innermost`` images come in with their channels innermost, or go to a layer that lays them so. ``view``
    becomes ``reshape``, where nobody writes to the view: it looks at a tensor of any layout.
    """
    names: dict[fx.Node, fx.Node] = {}
    steps = fx.Graph()
    found = steps.graph_copy(graph.graph, names, return_output_node=True)
    assert isinstance(found, tuple)  # noqa: S101  # as it was asked to be
    value, output = found
    changing = written(graph.graph)
    for old, new in names.items():
        new.meta = dict(old.meta)
        if old in changing:
            continue
        if innermost and old.op == "placeholder" and len(old.meta.get("shape", ())) in FORMATS:
            _innermost(graph, steps, new)
        typed = any(isinstance(argument, torch.dtype) for argument in (*new.args, *new.kwargs.values()))
        if new.op == "call_method" and new.target == "view" and not typed:
            new.target = "reshape"
    seen = {names[node]: node.meta.get("in_order") for node in output.all_input_nodes}
    made = {new: steps.call_function(in_order, (new,)) for new, ordered in seen.items() if ordered}
    inputs = (new for old, new in names.items() if old.op == "placeholder" and old.meta.get("in_order") is False)
    if (input := next(inputs, None)) is not None:
        made |= {
            new: steps.call_function(ordered_as, (new, input)) for new, ordered in seen.items() if ordered is False
        }
    fixed = [node for node in output.all_input_nodes if any(one.op == "get_attr" for one in memory_of(node))]
    made |= {names[node]: steps.call_function(apart, (names[node],)) for node in fixed}
    steps.output(fx.map_arg(value, lambda node: made.get(node, node)))
    return fx.GraphModule(graph, steps, type(graph).__name__)


def _innermost(graph: fx.GraphModule, steps: fx.Graph, input: fx.Node) -> None:
    users = list(input.users)
    if users and all(_lays(graph, input, user) for user in users):
        for user in users:
            user.kwargs = {**user.kwargs, "innermost": True}
        return
    with steps.inserting_after(input):
        converted = steps.call_function(channels_innermost, (input,))
    converted.meta = dict(input.meta)
    input.replace_all_uses_with(converted, lambda user: user is not converted)


def _lays(graph: fx.GraphModule, input: fx.Node, user: fx.Node) -> bool:
    """Whether a step is a layer that lays its input's channels side by side itself."""
    layer = graph.get_submodule(str(user.target)) if user.op == "call_module" else None
    first = user.args[:1] == (input,) and input not in user.args[1:] and not user.kwargs
    return isinstance(layer, FollowedConv) and layer.lays and first
