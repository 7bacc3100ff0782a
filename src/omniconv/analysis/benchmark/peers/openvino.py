# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import openvino
import torch
from openvino import opset15 as opset
from openvino.preprocess import PrePostProcessor
from torch import Tensor

from omniconv.analysis.benchmark.operands import Operands
from omniconv.analysis.benchmark.peers import Call
from omniconv.analysis.benchmark.peers.onnx_graph import fed, graph_of
from omniconv.analysis.benchmark.problems import Benchmark

_AXES = ("L", "HW", "DHW")


def prepare(benchmark: Benchmark, operands: Operands, threads: int) -> Call:
    """A model compiled for latency, computing in float32, on an input it shares; its output is one array, reused."""
    core = openvino.Core()
    if (node := benchmark.family.benchmarks.node(benchmark.problem)) is None:
        model = core.read_model(graph_of(benchmark, operands).SerializeToString())
    else:
        model = _OPERATORS[node.operator](node.numbers, benchmark, operands)
    last = benchmark.layout == "cl"
    if last:
        model = _channels_last(model, benchmark.problem.dim)
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    for name, tensor in fed(benchmark, operands).items():
        lying = tensor.movedim(1, -1) if last else tensor
        request.set_tensor(name, openvino.Tensor(lying.numpy(), shared_memory=True))

    def read(_: object) -> tuple[Tensor, ...]:
        output = torch.from_numpy(request.get_output_tensor().data)
        return (output.movedim(-1, 1) if last else output,)

    return Call(request.infer, read)


def _deformed(numbers: Mapping[str, Any], benchmark: Benchmark, operands: Operands) -> openvino.Model:
    """Its own operator: its reader of ONNX knows no DeformConv. Outside the image it fades to zero if told so."""
    given: dict[str, Any] = dict(zip(benchmark.family.tensor_names, operands.tensors, strict=True))
    inputs = {name: opset.parameter(t.shape, name=name) for name, t in fed(benchmark, operands).items()}
    for name, port in inputs.items():
        port.output(0).get_tensor().set_names({name})
    before, after = numbers["pads"][:2], numbers["pads"][2:]
    output = opset.deformable_convolution(
        inputs["input"],
        inputs["offset"],
        given["weight"].detach().contiguous().numpy(),
        numbers["strides"],
        before,
        after,
        numbers["dilations"],
        mask=inputs.get("mask"),
        group=numbers["group"],
        deformable_group=numbers["offset_group"],
        bilinear_interpolation_pad=True,
    )
    if given["bias"] is not None:
        output = opset.add(output, given["bias"].detach().view(1, -1, 1, 1).numpy())
    return openvino.Model([output], list(inputs.values()), "problem")


_OPERATORS = {"DeformConv": _deformed}


def _channels_last(model: openvino.Model, dim: int) -> openvino.Model:
    axes = _AXES[dim - 1]
    edges = PrePostProcessor(model)
    inputs = [edges.input(port.any_name) for port in model.inputs]
    for edge in (*inputs, edges.output()):
        edge.tensor().set_layout(openvino.Layout(f"N{axes}C"))
        edge.model().set_layout(openvino.Layout(f"NC{axes}"))
    return edges.build()
