# SPDX-License-Identifier: Apache-2.0
"""The end of a classifier: its mean over all positions left out, and what follows computed at each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from omniconv.core.layer import PlannedLayer

from .calls import Call
from .survey import Gathered, Map, Survey

AS_IT_IS = {"bfloat16", "clone", "contiguous", "detach", "double", "dropout", "float", "half", "identity", "to"}
RENAMED = {"flatten", "getitem", "reshape", "squeeze", "unsqueeze", "view"}
SCALED = {"add", "div", "mul", "sub", "truediv"}


class Head:
    """Makes of a step behind a mean over all positions the same step at every position.

    A step must be affine, so that the mean of what it makes is what it makes of the mean. ``refuse`` is told of others.
    """

    def __init__(self, survey: Survey, refuse: Callable[[Call, str], Exception]) -> None:
        self.survey, self.refuse = survey, refuse
        self.made: dict[fx.Node, tuple[fx.Node, Tensor]] = {}

    def map_before(self, node: fx.Node) -> fx.Node:
        """The map whose positions a step reads together."""
        before = next((n for n in node.all_input_nodes if isinstance(self.survey.states[n], Map)), None)
        if before is None:
            raise self.refuse(Call.of(self.survey.root, node), "reads one of several maps in a tuple")
        return before

    def at_every_position(self, node: fx.Node) -> tuple[fx.Node, Tensor]:
        """The counterpart of ``node``, a map, and an example of what the step itself makes."""
        if node not in self.made:
            with node.graph.inserting_before(node):
                self.made[node] = self._made(node)
        return self.made[node]

    def _made(self, node: fx.Node) -> tuple[fx.Node, Tensor]:
        state, call = self.survey.states[node], Call.of(self.survey.root, node)
        if isinstance(state, Gathered) and any(source.node is node for source in state.sources):
            before = self.map_before(node)
            map: Any = self.survey.states[before]
            order = [d for d in range(map.rank) if d not in map.dims] + list(map.dims)
            moved = before if map.last else node.graph.call_method("permute", (before, order))
            return moved, self.survey.evaluated(call, {before: map.example})
        inputs = [n for n in node.all_input_nodes if isinstance(self.survey.states[n], Gathered)]
        if len(inputs) != 1 or node.all_input_nodes[0] is not inputs[0]:
            raise self.refuse(call, "joins several tensors behind the mean")
        x, example = self.at_every_position(inputs[0])
        after = self.survey.evaluated(call, {inputs[0]: example}) if call.name in RENAMED else None
        if isinstance(after, Tensor) and after.shape[:2] == example.shape[:2] and after.numel() == example.numel():
            return x, after
        if call.name == "linear" and example.dim() == 2 and getattr(call.module, "activation", None) is None:
            last = node.graph.call_function(torch.movedim, (x, 1, -1))
            product = self._copy(node, last)
            return node.graph.call_function(torch.movedim, (product, -1, 1)), example
        if self._affine(call, example):
            return self._copy(node, x), example
        raise self.refuse(call, "stands behind the mean and is not affine, so that it does not commute with it")

    @staticmethod
    def _copy(node: fx.Node, x: fx.Node) -> fx.Node:
        first = node.all_input_nodes[0]
        return node.graph.node_copy(node, lambda n: x if n is first else n)

    def _affine(self, call: Call, example: Tensor) -> bool:
        module, lies = call.module, example.dim() == self.survey.dim + 2
        if call.name in AS_IT_IS or isinstance(module, nn.modules.dropout._DropoutNd):  # noqa: SLF001
            return True
        if call.name in SCALED:
            number = call.get(1, "other")
            return isinstance(number, int | float) and call.node.args[0] is call.node.all_input_nodes[0]
        if call.name == "batch_norm":
            return module is not None and lies and call.dim == self.survey.dim and module.running_mean is not None
        if isinstance(module, PlannedLayer):
            follows = [getattr(module, name, None) for name in ("norm", "activation")]
            problem = module.problem
            numbers = {*problem.kernel_size, *problem.stride}
            return lies and numbers == {1} and not any(follows) and all(pair == (0, 0) for pair in problem.pads())
        if call.name == "convolution" and lies:
            weight: Any = module or self.survey.states[call.get(1, "weight")]
            shape = weight.weight.shape if module is not None else getattr(weight.value, "shape", (0, 0, 0))
            padding = call.get(4, "padding", 0)
            alone = padding == "valid" or set(padding if isinstance(padding, list | tuple) else (padding,)) == {0}
            stride: Any = call.get(3, "stride", 1)
            steps = set(stride if isinstance(stride, list | tuple) else (stride,))
            return set(shape[2:]) == {1} == steps and alone
        return False
