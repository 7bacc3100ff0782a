# SPDX-License-Identifier: Apache-2.0
"""ONNX's DeformConv: its conformance cases, and its reference implementation where they leave off, at random too."""

from __future__ import annotations

import importlib
import math

import onnx
import onnx.backend.test.case.node as node_cases
import onnx.reference
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from omniconv.core.family import family_of
from omniconv.core.library import absent
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
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
    check_against_reference(PROBLEMS[name], options)


@st.composite
def geometries(draw):
    """Groups and offset groups of their own, and on each axis a kernel, a stride, a dilation and two paddings."""
    group, shared = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    kernel, strides, dilations = ([draw(st.integers(1, most)) for _ in range(2)] for most in (4, 3, 3))
    pads = [draw(st.integers(0, 3)) for _ in range(4)]
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    # ONNX's reference divides by the size less 1
    size = [max(span - pads[a] - pads[a + 2], 2) + draw(st.integers(0, 6)) for a, span in enumerate(spans)]
    channels = math.lcm(group, shared) * draw(st.integers(1, 2)), group * draw(st.integers(1, 5))
    about = {"channels": channels, "kernel": kernel, "size": size, "group": group, "offset_group": shared}
    return about | {"pads": pads, "strides": strides, "dilations": dilations}


@pytest.mark.pitfall(1, 3, 5)
@settings(max_examples=40)
@given(geometries(), st.sets(st.sampled_from(["mask", "bias"])), st.sampled_from([0.3, 2.0, 9.0]), st.integers(1, 3))
def test_reference_at_random_geometries(about, options, reach, batch):
    check_against_reference(about, options, reach, batch)


def check_against_reference(about, options, reach=2.0, batch=2):
    """ONNX's reference, the loops in float64 and each kernel, in both layouts, compute the same."""
    about = dict(about)
    (c, o), kernel, size = about.pop("channels"), about.pop("kernel"), about.pop("size")
    pads = about.setdefault("pads", [0] * 4)
    strides, dilations = about.setdefault("strides", [1, 1]), about.setdefault("dilations", [1, 1])
    outs = [
        (i + pads[a] + pads[a + 2] - dilations[a] * (k - 1) - 1) // strides[a] + 1
        for a, (i, k) in enumerate(zip(size, kernel, strict=True))
    ]
    shared, taps = about.get("offset_group", 1), kernel[0] * kernel[1]
    tensors = {
        "X": torch.randn(batch, c, *size),
        "W": torch.randn(o, c // about.get("group", 1), *kernel),
        "offset": reach * torch.randn(batch, 2 * shared * taps, *outs),
        "B": torch.randn(o) if "bias" in options else None,
        "mask": torch.rand(batch, shared * taps, *outs) if "mask" in options else None,
    }
    node = onnx.helper.make_node(
        "DeformConv", [n if t is not None else "" for n, t in tensors.items()], ["Y"], kernel_shape=kernel, **about
    )
    fed = {n: t.numpy() for n, t in tensors.items() if t is not None}
    inputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, t.shape) for n, t in fed.items()]
    result = onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, (batch, o, *outs))
    graph = onnx.helper.make_graph([node], "deform", inputs, [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    (want,) = onnx.reference.ReferenceEvaluator(model).run(None, fed)
    assert_close(computed(node, *tensors.values()), torch.from_numpy(want))

    padding, special = tuple(zip(pads[:2], pads[2:], strict=True)), {"head": 0, "offset_groups": shared}
    numbers = c, o, tuple(kernel), tuple(strides), padding, tuple(dilations), about.get("group", 1)
    special["mask"] = int("mask" in options)
    problem = ConvProblem.of("deformable", 2, *numbers, bias="bias" in options, **special)
    family = family_of(problem)
    arguments = [tensors[name] for name in ("X", "offset", "W", "B", "mask")]
    right = family.part("reference").reference(problem, *(t if t is None else t.double() for t in arguments))
    assert_close(torch.from_numpy(want), right)
    for kernel in [one for one in family.kernels if not (one.compiled and absent())]:
        for form in (torch.contiguous_format, torch.channels_last):
            laid = [t if t is None or t.dim() < 4 else t.contiguous(memory_format=form) for t in arguments]
            assert_close(Plan(problem, kernel)(*laid), right)
