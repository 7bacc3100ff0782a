# SPDX-License-Identifier: Apache-2.0
"""A problem as an ONNX graph, its weights constant: what inference engines are given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper
from torch import Tensor

from omniconv.analysis.benchmark.operands import RESIDUAL, Operands
from omniconv.analysis.benchmark.peers import Unavailable
from omniconv.analysis.benchmark.peers.plain import steps_of, weight_of
from omniconv.analysis.benchmark.problems import Benchmark
from omniconv.core.problem import ConvProblem

# The opset of ONNX 1.17, which every peer reads.
OPSET = 22
_SIMPLE = {"relu": "Relu", "gelu": "Gelu", "hardswish": "HardSwish"}
# Of ReLU6, as constants of the graph.
_BOUNDS = {"least": 0.0, "most": 6.0}


def fed(benchmark: Benchmark, operands: Operands) -> dict[str, Tensor]:
    """What changes from call to call, by name: the inputs of the graph."""
    names, batched = benchmark.family.tensor_names, benchmark.family.batched
    pairs = zip(names, operands.tensors, strict=True)
    found = {name: tensor for name, tensor in pairs if tensor is not None and name in batched}
    return found if operands.residual is None else found | {RESIDUAL: operands.residual}


def graph_of(benchmark: Benchmark, operands: Operands) -> ModelProto:
    """The graph from what is fed to ``y``, in float32, channels first."""
    given: dict[str, Any] = dict(zip(benchmark.family.tensor_names, operands.tensors, strict=True))
    node = benchmark.family.benchmarks.node(benchmark.problem)
    if node is not None:
        constants = {name: given[name] for name in node.inputs if name and name not in benchmark.family.batched}
        nodes = [helper.make_node(node.operator, node.inputs, ["y"], **node.numbers)]
    else:
        nodes, constants = _convolutions(benchmark, given)
    inputs = [_info(name, tensor.shape) for name, tensor in fed(benchmark, operands).items()]
    output = _info("y", (benchmark.problem.batch, benchmark.problem.out_channels, *benchmark.problem.out_size))
    kept = [numpy_helper.from_array(t.detach().contiguous().numpy(), name) for name, t in constants.items()]
    graph = helper.make_graph(nodes, "problem", inputs, [output], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    checker.check_model(model)
    return model


def _info(name: str, shape: Any) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, tuple(shape))


def _convolutions(benchmark: Benchmark, given: dict[str, Any]) -> tuple[list[NodeProto], dict[str, Tensor]]:
    """The ordinary convolutions from ``input`` to ``y`` with what follows each, and their weights."""
    steps = steps_of(benchmark.problem)
    nodes: list[NodeProto] = []
    constants: dict[str, Tensor] = {}
    if benchmark.activation == "relu6":
        constants |= {name: torch.tensor(value) for name, value in _BOUNDS.items()}
    name = "input"
    if any(step.varies for step in steps):
        raise Unavailable("it has no such operator")
    for at, step in enumerate(steps):
        last = at == len(steps) - 1
        weights = {f"w{at}": weight_of(step, given)} | ({f"b{at}": given[step.bias]} if step.bias else {})
        constants |= weights
        output = "y" if last else f"x{at + 1}"
        added = benchmark.add and last
        result = f"c{at}" if benchmark.activation or added else output
        nodes.append(_node(step.problem, [name, *weights], result))
        nodes += _following(benchmark.activation, result, output, added=added)
        name = output
    return nodes, constants


def _following(word: str, name: str, output: str, *, added: bool) -> Iterator[NodeProto]:
    """From the result of a convolution to ``output``: what is added, if anything, then the activation."""
    if added:
        total = f"{output}_sum" if word else output
        yield helper.make_node("Add", [name, RESIDUAL], [total])
        name = total
    if word == "relu6":
        yield helper.make_node("Clip", [name, *_BOUNDS], [output])
    elif word == "silu":
        gate = f"{output}_gate"
        yield helper.make_node("Sigmoid", [name], [gate])
        yield helper.make_node("Mul", [name, gate], [output])
    elif word:
        yield helper.make_node(_SIMPLE[word], [name], [output])


def _node(problem: ConvProblem, inputs: list[str], output: str) -> NodeProto:
    befores, afters = zip(*problem.pads(), strict=True)
    numbers: dict[str, Any] = {
        "kernel_shape": problem.kernel_size,
        "strides": problem.stride,
        "pads": [*befores, *afters],
        "dilations": problem.dilation,
        "group": problem.groups,
    }
    if problem.transposed:
        return helper.make_node("ConvTranspose", inputs, [output], output_padding=problem.appended, **numbers)
    return helper.make_node("Conv", inputs, [output], **numbers)
