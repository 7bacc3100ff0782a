# SPDX-License-Identifier: Apache-2.0
"""ONNX's DeformConv: its conformance cases, and its reference implementation on problems that they leave out."""

from __future__ import annotations

import importlib

import onnx
import onnx.backend.test.case.node as node_cases
import onnx.reference
import pytest
import torch

import omniconv.functional as OF
from tolerance import assert_close


def node_tests():
    importlib.import_module("onnx.backend.test.case.node.deformconv")
    return [case for case in node_cases._NodeTestCases if case.model.graph.node[0].op_type == "DeformConv"]


def computed(node, x, weight, offset, bias=None, mask=None):
    """What ``node`` computes, attributes as ours; pads are all befores, then all afters; groups are in the shapes."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    pads = given.get("pads", [0] * 4)
    padding = tuple(zip(pads[:2], pads[2:], strict=True))
    stride, dilation = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
    return OF.deform_conv2d(x, offset, weight, bias, tuple(stride), padding, tuple(dilation), mask)


def test_there_are_cases():
    assert len(node_tests()) >= 4


@pytest.mark.pitfall(1, 3)
@pytest.mark.parametrize("case", node_tests(), ids=lambda case: case.name)
def test_node(case):
    inputs, outputs = case.data_sets[0]
    names = case.model.graph.node[0].input
    left = iter(inputs)
    tensors = [torch.from_numpy(next(left).copy()) if name else None for name in names]
    assert_close(computed(case.model.graph.node[0], *tensors), torch.from_numpy(outputs[0].copy()))


PROBLEMS = {
    "plain": {"channels": (2, 3), "kernel": (3, 3), "size": (4, 5), "pads": [1, 1, 1, 1]},
    "groups": {"channels": (4, 6), "kernel": (2, 3), "size": (4, 5), "group": 2, "pads": [1, 0, 0, 2]},
    "offset_groups": {"channels": (6, 2), "kernel": (3, 2), "size": (5, 4), "offset_group": 3, "pads": [1, 1, 1, 1]},
    "crossed": {"channels": (12, 6), "kernel": (2, 2), "size": (4, 3), "group": 3, "offset_group": 4},
    "strided": {"channels": (2, 2), "kernel": (2, 3), "size": (7, 9), "strides": [2, 3], "dilations": [3, 2]},
}


@pytest.mark.pitfall(1, 3, 5)
@pytest.mark.parametrize("options", [(), ("mask",), ("bias",), ("mask", "bias")], ids="-".join)
@pytest.mark.parametrize("name", PROBLEMS)
def test_reference(name, options):
    about = dict(PROBLEMS[name])
    (c, o), kernel, size = about.pop("channels"), about.pop("kernel"), about.pop("size")
    pads = about.setdefault("pads", [0] * 4)
    strides, dilations = about.setdefault("strides", [1, 1]), about.setdefault("dilations", [1, 1])
    outs = [
        (i + pads[a] + pads[a + 2] - dilations[a] * (k - 1) - 1) // strides[a] + 1
        for a, (i, k) in enumerate(zip(size, kernel, strict=True))
    ]
    shared, taps = about.get("offset_group", 1), kernel[0] * kernel[1]
    tensors = {
        "X": torch.randn(2, c, *size),
        "W": torch.randn(o, c // about.get("group", 1), *kernel),
        "offset": 2 * torch.randn(2, 2 * shared * taps, *outs),
        "B": torch.randn(o) if "bias" in options else None,
        "mask": torch.rand(2, shared * taps, *outs) if "mask" in options else None,
    }
    node = onnx.helper.make_node(
        "DeformConv", [n if t is not None else "" for n, t in tensors.items()], ["Y"], kernel_shape=kernel, **about
    )
    given = {n: t.numpy() for n, t in tensors.items() if t is not None}
    inputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, t.shape) for n, t in given.items()]
    result = onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, (2, o, *outs))
    graph = onnx.helper.make_graph([node], "deform", inputs, [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    (want,) = onnx.reference.ReferenceEvaluator(model).run(None, given)
    assert_close(computed(node, *tensors.values()), torch.from_numpy(want))
