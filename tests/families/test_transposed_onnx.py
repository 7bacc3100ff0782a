# SPDX-License-Identifier: Apache-2.0
"""ONNX's conformance cases of ConvTranspose: outputs written down by others, from another definition of the padding."""

from __future__ import annotations

import importlib
from pathlib import Path

import onnx
import onnx.backend.test.case.node as node_cases
import pytest
import torch
from onnx import numpy_helper

import omniconv.functional as OF
from tolerance import assert_close

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
CONVERTED = (
    "pytorch-converted/test_ConvTranspose2d",
    "pytorch-converted/test_ConvTranspose2d_no_bias",
    "pytorch-operator/test_operator_convtranspose",
)
RULES = {b"SAME_UPPER": "tf_same", b"SAME_LOWER": "same_lower", b"VALID": "valid"}


def node_tests():
    importlib.import_module("onnx.backend.test.case.node.convtranspose")
    return [case for case in node_cases._NodeTestCases if case.model.graph.node[0].op_type == "ConvTranspose"]


def computed(node, x, weight, bias=None):
    """What ``node`` computes, its attributes as ours; pads are all befores, then all afters."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    dim = x.dim() - 2
    pads = given.get("pads", [0] * 2 * dim)
    padding = RULES.get(given.get("auto_pad"), tuple(zip(pads[:dim], pads[dim:], strict=True)))
    stride, dilation = given.get("strides", [1] * dim), given.get("dilations", [1] * dim)
    extra = given.get("output_padding", [0] * dim)
    if "output_shape" in given and "output_padding" not in given:
        least = [
            (i - 1) * s + d * (k - 1) + 1
            for i, s, d, k in zip(x.shape[2:], stride, dilation, weight.shape[2:], strict=True)
        ]
        extra = [want - low for want, low in zip(given["output_shape"], least, strict=True)]
    function = getattr(OF, f"conv_transpose{dim}d")
    return function(x, weight, bias, stride, padding, extra, given.get("group", 1), dilation)


def test_there_are_cases():
    assert len(node_tests()) >= 11


@pytest.mark.pitfall(19)
@pytest.mark.parametrize("case", node_tests(), ids=lambda case: case.name)
def test_node(case):
    inputs, outputs = case.data_sets[0]
    got = computed(case.model.graph.node[0], *(torch.from_numpy(array.copy()) for array in inputs))
    assert_close(got, torch.from_numpy(outputs[0].copy()))


@pytest.mark.parametrize("name", CONVERTED)
def test_converted(name):
    model = onnx.load(DATA / name / "model.onnx")
    values = {initializer.name: numpy_helper.to_array(initializer) for initializer in model.graph.initializer}
    for number, given in enumerate(i for i in model.graph.input if i.name not in values):
        values[given.name] = numpy_helper.to_array(_tensor(DATA / name / "test_data_set_0" / f"input_{number}.pb"))
    node = model.graph.node[0]
    got = computed(node, *(torch.from_numpy(values[wanted].copy()) for wanted in node.input))
    want = numpy_helper.to_array(_tensor(DATA / name / "test_data_set_0" / "output_0.pb"))
    assert_close(got, torch.from_numpy(want.copy()))


def _tensor(path):
    return onnx.TensorProto.FromString(path.read_bytes())
