# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU."""

from __future__ import annotations

import onnxruntime
import torch

from omniconv.analysis.benchmark.operands import Operands
from omniconv.analysis.benchmark.peers import Call
from omniconv.analysis.benchmark.peers.onnx_graph import fed, graph_of
from omniconv.analysis.benchmark.problems import Benchmark


def prepare(benchmark: Benchmark, operands: Operands, threads: int) -> Call:
    """A session with every optimisation, which packs the weights; its output is a new array at each call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    graph = graph_of(benchmark, operands).SerializeToString()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in fed(benchmark, operands).items()}
    return Call(lambda: session.run(None, feed), lambda outputs: (torch.from_numpy(outputs[0]),))
