# SPDX-License-Identifier: Apache-2.0
"""A network in each inference engine that is installed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from omniconv.analysis.benchmark.peers import version


def engines(network: nn.Module, picture: Tensor, threads: int) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """By name, a call with this picture, in float32; the network must return one tensor."""
    if find_spec("onnx") is None:
        return
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another exporter, which needs another package, is newer
        torch.onnx.export(network, (picture,), content, dynamo=False, opset_version=18)
    if version("onnxruntime"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(content.getvalue(), options, providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: picture.numpy()}
        yield "onnxruntime", lambda: torch.from_numpy(session.run(None, feed)[0])
    if version("openvino"):
        import openvino

        core = openvino.Core()
        config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(core.read_model(content.getvalue()), "CPU", config).create_infer_request()
        request.set_input_tensor(openvino.Tensor(picture.numpy(), shared_memory=True))
        yield "openvino", lambda: (request.infer(), torch.from_numpy(request.get_output_tensor().data))[1]
