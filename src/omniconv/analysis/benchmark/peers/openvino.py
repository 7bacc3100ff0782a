# SPDX-License-Identifier: Apache-2.0
"""OpenVINO on the CPU."""

from __future__ import annotations

import openvino
import torch
from openvino.preprocess import PrePostProcessor
from torch import Tensor

from omniconv.analysis.benchmark.operands import Operands
from omniconv.analysis.benchmark.peers import Call
from omniconv.analysis.benchmark.peers.onnx_graph import graph_of
from omniconv.analysis.benchmark.problems import Benchmark

_AXES = ("L", "HW", "DHW")


def prepare(benchmark: Benchmark, operands: Operands, threads: int) -> Call:
    """A model compiled for latency, computing in float32, on an input it shares; its output is one array, reused."""
    core = openvino.Core()
    model = core.read_model(graph_of(benchmark, operands).SerializeToString())
    input, last = operands.leaves[0], benchmark.layout == "cl"
    if last:
        model = _channels_last(model, benchmark.problem.dim)
        input = input.movedim(1, -1)
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    request.set_input_tensor(openvino.Tensor(input.numpy(), shared_memory=True))

    def read(_: object) -> tuple[Tensor, ...]:
        output = torch.from_numpy(request.get_output_tensor().data)
        return (output.movedim(-1, 1) if last else output,)

    return Call(request.infer, read)


def _channels_last(model: openvino.Model, dim: int) -> openvino.Model:
    axes = _AXES[dim - 1]
    edges = PrePostProcessor(model)
    for edge in (edges.input(), edges.output()):
        edge.tensor().set_layout(openvino.Layout(f"N{axes}C"))
        edge.model().set_layout(openvino.Layout(f"NC{axes}"))
    return edges.build()
