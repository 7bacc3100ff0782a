# SPDX-License-Identifier: Apache-2.0
"""A network of steps whose convolutions run with what follows them: a layer of this library for each such sequence."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

import omniconv
from omniconv.core.layer import PlannedLayer

ADDS = (operator.add, operator.iadd, torch.add)
CONVOLUTIONS = (nn.Conv2d, PlannedLayer)


def is_depthwise(module: Any) -> bool:
    """Whether a layer convolves each channel by itself."""
    return isinstance(module, CONVOLUTIONS) and module.groups == module.in_channels > 1


def is_pointwise(module: Any) -> bool:
    """Whether a layer maps the channels of each position."""
    return isinstance(module, CONVOLUTIONS) and set(module.kernel_size) == {1} and module.groups == 1


def is_activation(module: object) -> bool:
    """Whether a layer is one of torch's activations."""
    return type(module).__module__ == "torch.nn.modules.activation"


@dataclass
class Chain:
    """Steps that one layer computes: up to three convolutions, the last of them pointwise, and what follows each.

    Attributes:
        nodes: the steps, first to last.
        expansion, before: a pointwise convolution before the depthwise one, and its activation, or None.
        depthwise, between: the convolution before the last one, and its activation, or None.
        pointwise: the convolution of all channels.
        residual: the step whose result is added, or None; it comes before the pointwise convolution.
        after: the last activation, or None.
    """

    nodes: list[fx.Node]
    expansion: Any = None
    before: nn.Module | None = None
    depthwise: Any = None
    between: nn.Module | None = None
    pointwise: Any = None
    residual: fx.Node | None = None
    after: nn.Module | None = None

    def layer(self) -> nn.Module:
        """The layer that computes the chain, with the parameters that stand there."""
        if self.depthwise is None:
            return _pointwise(self.pointwise, self.after).eval()
        taps, across = self.depthwise, self.pointwise
        numbers = (taps.kernel_size, taps.stride, taps.padding, taps.dilation)
        separable = omniconv.nn.DepthwiseSeparableConv2d(
            taps.in_channels,
            across.out_channels,
            *numbers,
            across.bias is not None,
            device="meta",
            depthwise_bias=taps.bias is not None,
            mid_activation=self.between,
            activation=self.after,
        )
        separable.depthwise_weight, separable.depthwise_bias = taps.weight, taps.bias
        separable.pointwise_weight, separable.bias = across.weight, across.bias
        if self.expansion is None:
            return separable.eval()
        inside, more = self.expansion.in_channels, self.expansion.out_channels / self.expansion.in_channels
        added = self.residual is not None
        block = omniconv.nn.InvertedResidual2d(
            inside, across.out_channels, *numbers, device="meta", expansion=more, residual=added
        )
        block.expansion, block.separable = _pointwise(self.expansion, self.before), separable
        return block.eval()


def _pointwise(module: Any, activation: nn.Module | None) -> nn.Module:
    sizes, bias = (module.in_channels, module.out_channels), module.bias is not None
    layer = omniconv.nn.PointwiseConv2d(*sizes, module.stride, bias=bias, device="meta", activation=activation)
    layer.weight, layer.bias = module.weight, module.bias
    return layer


def fused(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph, changed in place: chains become layers, and classifiers of torch ours. It must train no more."""
    now: dict[fx.Node | None, fx.Node] = {}
    for chain in list(chains(graph)):
        name, last, input = f"fused_{chain.nodes[0].name}", chain.nodes[-1], chain.nodes[0].args[0]
        graph.add_submodule(name, chain.layer())
        added: tuple[fx.Node, ...] = ()
        if chain.residual is not None and chain.expansion is None:  # which adds its own input
            added = (now.get(chain.residual, chain.residual),)
        with graph.graph.inserting_after(last):
            now[last] = graph.graph.call_module(name, (input, *added))
        last.replace_all_uses_with(now[last])
        for node in reversed(chain.nodes):
            graph.graph.erase_node(node)
    for name, module in list(graph.named_modules()):
        if type(module) is nn.Linear:
            graph.set_submodule(name, _linear(module))
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph


def chains(graph: fx.GraphModule) -> Iterator[Chain]:
    """The longest of every place, none of whose steps is in two."""
    seen: set[fx.Node] = set()
    for node in graph.graph.nodes:
        chain = None if node in seen else _chain_at(graph, node)
        if chain is not None:
            seen.update(chain.nodes)
            yield chain


def _inverted_at(graph: fx.GraphModule, first: fx.Node) -> Chain | None:
    """A pointwise convolution before a depthwise and a pointwise one, and perhaps its own input behind them."""
    expansion, nodes = _module(graph, first), [first]
    if not is_pointwise(expansion) or set(expansion.stride) != {1} or expansion.in_channels == expansion.out_channels:
        return None
    before = _taken(graph, nodes, is_activation)
    if _taken(graph, nodes, is_depthwise) is None:
        return None
    rest = _block_at(graph, nodes[-1])
    if rest is None or rest.depthwise is None or rest.after is not None:
        return None
    if rest.residual not in (None, first.args[0]):
        return None
    return replace(rest, nodes=nodes[:-1] + rest.nodes, expansion=expansion, before=before)


def _chain_at(graph: fx.GraphModule, first: fx.Node) -> Chain | None:
    return _inverted_at(graph, first) or _block_at(graph, first)


def _block_at(graph: fx.GraphModule, first: fx.Node) -> Chain | None:
    chain = Chain([first])
    layer = _module(graph, first)
    if is_depthwise(layer) and layer.out_channels == layer.in_channels:
        chain.depthwise = layer
        chain.between = _taken(graph, chain.nodes, is_activation)
        layer = _taken(graph, chain.nodes, is_pointwise)
        if layer is not None and set(layer.stride) != {1}:
            return None
    if not is_pointwise(layer):
        return None
    chain.pointwise = layer
    add = _next(chain.nodes)
    if add is not None and add.op == "call_function" and add.target in ADDS:
        others = [term for term in add.args if term is not chain.nodes[-1]]
        if len(others) == 1 and isinstance(others[0], fx.Node) and others[0] < chain.nodes[-1]:
            chain.residual = others[0]
            chain.nodes.append(add)
    chain.after = _taken(graph, chain.nodes, is_activation)
    return chain


def _module(graph: fx.GraphModule, node: fx.Node) -> Any:
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def _next(nodes: list[fx.Node]) -> fx.Node | None:
    """The only step that takes what the last one gives."""
    users = list(nodes[-1].users)
    return users[0] if len(users) == 1 else None


def _taken(graph: fx.GraphModule, nodes: list[fx.Node], fits: Callable[[Any], bool]) -> Any:
    """The layer of the next step, which then belongs to the chain, if it is one that fits."""
    node = _next(nodes)
    module = None if node is None else _module(graph, node)
    if node is None or not fits(module):
        return None
    nodes.append(node)
    return module


def _linear(module: nn.Linear) -> nn.Module:
    layer = omniconv.nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta")
    layer.weight, layer.bias = module.weight, module.bias
    return layer.eval()
