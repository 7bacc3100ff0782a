# SPDX-License-Identifier: Apache-2.0
"""What a graph computes in vain at each call: steps that return what they are given, and what never changes."""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor, fx

from .layout import CHECKS
from .reading import Reading, argument, may_write, mutates, written
from .tracing import UntraceableError, constant

NDIM_METHODS = ("dim", "ndimension")
# A graph's code writes the first as statements, which give a name to something else where they are traced again
METHODS = {operator.iadd: "add_", operator.isub: "sub_", operator.imul: "mul_", operator.itruediv: "div_"}


def clean(graph: fx.GraphModule) -> list[str]:
    """Take out, in place, what need not be computed again; the names of the steps that are gone."""
    reading, gone = Reading(graph), []
    _ask_earlier(graph)
    for node in graph.graph.nodes:
        source = node.args[0] if node.target in METHODS else None
        if isinstance(source, fx.Node) and "shape" in source.meta:
            node.op, node.target = "call_method", METHODS[node.target]
    changing = written(graph.graph)
    for node in list(graph.graph.nodes):
        source = argument(node, 0, "input", None)
        if isinstance(source, fx.Node) and reading.is_nothing(node):
            node.replace_all_uses_with(source)
            gone.append(str(node.target) if node.op == "call_module" else node.name)
            graph.graph.erase_node(node)
        elif node not in changing and _is_constant(node) and _keep(graph, node):
            gone.append(node.name)
    graph.graph.eliminate_dead_code(is_impure)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return gone


def is_impure(node: fx.Node) -> bool:
    """Whether a step does more than return a value."""
    return node.op in ("placeholder", "output") or may_write(node) or node.target in CHECKS or node.is_impure()


def _is_constant(node: fx.Node) -> bool:
    """Whether a step reads only what the model holds."""
    if node.op not in ("call_function", "call_method") or mutates(node):
        return False
    read = node.all_input_nodes
    return bool(read) and all(one.op == "get_attr" for one in read)


def _keep(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Compute a step once and for all, if it gives a tensor, and the same each time."""

    def value(of: fx.Node) -> Any:
        where, _, name = str(of.target).rpartition(".")
        return getattr(graph.get_submodule(where), name)

    args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)

    def compute() -> Any:
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    try:
        found = constant(compute, graph)
    except UntraceableError:
        return False
    if not isinstance(found, Tensor):
        return False
    name = unused(graph, f"constant_{node.name}")
    graph.register_buffer(name, found.detach().clone())
    with graph.graph.inserting_before(node):
        kept = graph.graph.get_attr(name)
    kept.meta = dict(node.meta)
    node.replace_all_uses_with(kept)
    graph.graph.erase_node(node)
    return True


def unused(graph: fx.GraphModule, name: str) -> str:
    """A name that nothing in the graph's module has."""
    while hasattr(graph, name):
        name += "_"
    return name


def _ask_earlier(graph: fx.GraphModule) -> None:
    """Let a step that asks for the number of axes ask before layers that keep it: nobody else then reads between."""
    reading = Reading(graph)
    for node in graph.graph.nodes:
        asks = node.target is getattr and node.args[1:2] == ("ndim",)
        if not asks and not (node.op == "call_method" and node.target in NDIM_METHODS):
            continue
        source = node.args[0]
        while isinstance(source, fx.Node) and reading.keeps_axes(source):
            source = source.args[0]
        node.args = (source, *node.args[1:])
