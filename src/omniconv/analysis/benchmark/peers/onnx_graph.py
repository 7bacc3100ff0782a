# SPDX-License-Identifier: Apache-2.0
"""A problem as an ONNX graph of one input, its weights constant: what inference engines are given."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from omniconv.analysis.benchmark.operands import Operands
from omniconv.analysis.benchmark.peers.plain import steps_of, weight_of
from omniconv.analysis.benchmark.problems import Benchmark
from omniconv.core.problem import ConvProblem

# The opset of ONNX 1.17, which every peer reads.
OPSET = 22


def graph_of(benchmark: Benchmark, operands: Operands) -> ModelProto:
    """The graph from ``x`` to ``y``, in float32, channels first."""
    problem = benchmark.problem
    steps = steps_of(problem)
    given: dict[str, Any] = dict(zip(benchmark.family.tensor_names, operands.tensors, strict=True))
    nodes, constants, name = [], [], "x"
    for at, step in enumerate(steps):
        weights = {f"w{at}": weight_of(step, given)} | ({f"b{at}": given[step.bias]} if step.bias else {})
        constants += [numpy_helper.from_array(t.detach().contiguous().numpy(), key) for key, t in weights.items()]
        output = "y" if at == len(steps) - 1 else f"x{at + 1}"
        nodes.append(_node(step.problem, [name, *weights], output))
        name = output
    x = (problem.batch, problem.in_channels, *(problem.in_size or ()))
    y = (problem.batch, problem.out_channels, *problem.out_size)
    ends = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "problem", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    checker.check_model(model)
    return model


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
