# SPDX-License-Identifier: Apache-2.0
"""ONNX's conformance cases of every gathering convolution: outputs written down by others, some by hand."""

from __future__ import annotations

import importlib
from pathlib import Path

import onnx
import onnx.backend.test.case.node as node_cases
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.streaming import StreamState
from tolerance import assert_close, assert_equal

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
RULES = {b"SAME_UPPER": "tf_same", b"SAME_LOWER": "same_lower", b"VALID": "valid"}
ELSEWHERE = {"ConvTranspose"}  # test_transposed_onnx


def convolutions(graph):
    return [node for node in graph.node if "Conv" in node.op_type]


def node_tests(module, kind):
    importlib.import_module(f"onnx.backend.test.case.node.{module}")
    return [case for case in node_cases._NodeTestCases if case.model.graph.node[0].op_type == kind]


def stored(*folders):
    """The folders under ``DATA`` whose network has a convolution."""
    found = []
    for folder in folders:
        for path in sorted((DATA / folder).glob("*/model.onnx")):
            nodes = convolutions(onnx.load(path).graph)
            if nodes and not {node.op_type for node in nodes} <= ELSEWHERE:
                found.append(path.parent.relative_to(DATA).as_posix())
    return found


def computed(node, x, weight, bias=None):
    """What ``node`` computes, its attributes as ours; pads are all befores, then all afters."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    dim = x.dim() - 2
    pads = given.get("pads", [0] * 2 * dim)
    padding = RULES.get(given.get("auto_pad"), tuple(zip(pads[:dim], pads[dim:], strict=True)))
    stride, dilation = given.get("strides", [1] * dim), given.get("dilations", [1] * dim)
    assert tuple(given.get("kernel_shape", weight.shape[2:])) == tuple(weight.shape[2:])
    function = getattr(OF, f"conv{dim}d")
    return function(x, weight, bias, stride, padding, dilation, given.get("group", 1))


def tensors(arrays):
    return [torch.tensor(array) for array in arrays]


def read(path):
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def test_there_are_cases():
    assert len(node_tests("conv", "Conv")) >= 6
    assert len(node_tests("causal_conv_with_state", "CausalConvWithState")) >= 13
    assert len(node_tests("convinteger", "ConvInteger")) >= 2
    assert len(stored("pytorch-converted", "pytorch-operator")) >= 27
    every = {p.name for p in DATA.iterdir() if p.is_dir() and stored(p.name)}
    assert every <= {"pytorch-converted", "pytorch-operator"}


@pytest.mark.pitfall(12)
@pytest.mark.parametrize("case", node_tests("conv", "Conv"), ids=lambda case: case.name)
def test_node(case):
    inputs, outputs = case.data_sets[0]
    assert_close(computed(case.model.graph.node[0], *tensors(inputs)), *tensors(outputs))


@pytest.mark.parametrize("name", stored("pytorch-converted", "pytorch-operator"))
def test_stored(name):
    graph = onnx.load(DATA / name / "model.onnx").graph
    values = {initializer.name: numpy_helper.to_array(initializer) for initializer in graph.initializer}
    for number, given in enumerate(i for i in graph.input if i.name not in values):
        values[given.name] = read(DATA / name / "test_data_set_0" / f"input_{number}.pb")
    (node,) = graph.node
    got = computed(node, *tensors(values[wanted] for wanted in node.input))
    assert_close(got, *tensors([read(DATA / name / "test_data_set_0" / "output_0.pb")]))


@pytest.mark.parametrize("case", node_tests("convinteger", "ConvInteger"), ids=lambda case: case.name)
def test_integer_node(case):
    inputs, outputs = case.data_sets[0]
    x, weight, *zeros = (t.double() for t in tensors(inputs))
    for tensor, zero in zip((x, weight), zeros, strict=False):
        tensor.sub_(zero.view(-1, 1, 1, 1))
    assert_equal(computed(case.model.graph.node[0], x, weight), *tensors(outputs))


@pytest.mark.pitfall(34, 35, 36, 37)
@pytest.mark.parametrize(
    "case", node_tests("causal_conv_with_state", "CausalConvWithState"), ids=lambda case: case.name
)
@pytest.mark.parametrize("chunks", [1, 3])
def test_causal_node_with_its_state(case, chunks):
    node, (inputs, outputs) = case.model.graph.node[0], case.data_sets[0]
    given = dict(zip((name for name in node.input if name), tensors(inputs), strict=True))
    x, weight, bias = (given.get(name) for name in ("input", "weight", "bias"))
    layer = nn.CausalConv1d(len(weight), len(weight), weight.shape[2], groups=len(weight), bias=bias is not None)
    layer.to(x.dtype).load_state_dict({n: t for n, t in (("weight", weight), ("bias", bias)) if t is not None})
    state, pieces = layer.initial_state(len(x)), []
    if "past_state" in given:
        state = StreamState(given["past_state"])
    with torch.no_grad():
        for chunk in x.tensor_split(chunks, dim=2):
            piece, state = layer.step(chunk, state)
            pieces.append(piece)
    got, (output, present) = torch.cat(pieces, dim=2), tensors(outputs)
    if node.attribute:
        got = F.silu(got.float()).to(got.dtype)
    assert_close(got, output)
    assert_equal(state.history, present)
