# SPDX-License-Identifier: Apache-2.0
"""Every peer computes the family's formula on small problems, in both layouts, with all gradients; or says why not."""

from __future__ import annotations

import sys

import pytest
import torch

from omniconv.analysis.benchmark.answer import complaint, right_answer
from omniconv.analysis.benchmark.operands import operands_of
from omniconv.analysis.benchmark.peers import PEERS, TORCH, Unavailable, prepared, version
from omniconv.analysis.benchmark.problems import Benchmark
from omniconv.core.family import families
from omniconv.core.problem import ConvProblem

PROBLEMS = {
    "depthwise": "conv:n2_c8_o8_i7x6_k3x3_g8_pad1",
    "causal": "conv:n2_c8_o8_i9_k4_g8_padcausal_b",
    "grouped 3-D": "conv:n1_c4_o8_i5x6x4_k3x3x3_s2x1x2_g2_pad1_b",
    "dilated": "conv:n2_c6_o4_i9_k3_d2_pad2",
    "transposed": "transposed:n2_c6_o9_i5x7_k4x4_s2x2_g3_pad1_t_b",
    "transposed depthwise": "transposed:n2_c6_o6_i5x7_k3x4_s2x2_g6_pad1_op1x0_t",
    "separable": "spatial_separable:n2_c9_o9_i9x8_k5x3_g9_pad2x1_b_mid=9",
    "heads": "lightweight:n2_c8_o8_i17_k7_g8_padsame_heads=4_softmax=1",
    "block": "depthwise_separable:n2_c6_o4_i9x11_k3x3_pad1_depthwise-bias=0_multiplier=1",
}
VARIANTS = ("cf", "cl", "cf.train", "cl.train", "cf.bf16", "cl.bf16.train")


def small(problem, variant):
    return Benchmark.of("small", problem, ConvProblem.parse(PROBLEMS.get(problem, problem)), variant)


def said(name, benchmark):
    operands = operands_of(benchmark, "cpu")
    with torch.inference_mode(mode=not benchmark.training):
        call = prepared(name, benchmark, operands, 1)
        answer = call.read(call.run())
        return complaint(answer, right_answer(benchmark, operands), getattr(torch, benchmark.dtype))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", [name for name in PEERS if name != "compile"])
def test_a_peer_is_right_or_says_why_not(name, problem, variant):
    for package in PEERS[name].packages:
        pytest.importorskip(package)
    benchmark = small(problem, variant)
    if why := PEERS[name].refuse(benchmark):
        with pytest.raises(Unavailable, match=why):
            said(name, benchmark)
    elif name == "torch_cl" and benchmark.layout == "cl" and benchmark.problem.dim > 1:
        with pytest.raises(Unavailable, match="as torch"):
            said(name, benchmark)
    else:
        assert said(name, benchmark) == ""


VARYING = (
    "dynamic:n2_c8_o8_i9x11_k3x2_s2x1_d1x2_g8_pad1x0:2_b_heads=4_softmax=1",
    "dynamic:n2_c6_o6_i17_k3_g6_padcausal_heads=2_softmax=0",
)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("problem", VARYING)
@pytest.mark.parametrize("name", ["torch", "jax"])
def test_kernels_that_vary_are_sums_of_shifted_products(name, problem, variant):
    if version(name) is None:
        pytest.skip(f"{name} is not installed")
    assert said(name, small(problem, variant)) == ""


@pytest.mark.parametrize(
    ("name", "why"),
    [("torch_cl", "no convolution"), ("onnxruntime", "no such operator"), ("openvino", "no such operator")],
)
def test_kernels_that_vary_are_no_convolution(name, why):
    if version(name) is None:
        pytest.skip(f"{name} is not installed")
    with pytest.raises(Unavailable, match=why):
        said(name, small(VARYING[1], "cf"))


@pytest.mark.parametrize("variant", ["cf", "cl.train"])
def test_compiled_is_right(variant):
    assert said("compile", small("causal", variant)) == ""


MOVED = "deformable:n2_c6_o4_i7x9_k3x2_s2x1_g2_pad1_b_head=0_mask=1_offset-groups=3"


# The peers are an extra: `make bench` installs them.
@pytest.mark.parametrize(("name", "variant"), [("onnxruntime", "cf"), ("openvino", "cf"), ("openvino", "cl")])
@pytest.mark.parametrize("problem", [MOVED, MOVED.replace("mask=1", "mask=0")])
def test_an_operator_of_onnx_stands_for_a_family_that_convolutions_do_not_compute(name, problem, variant):
    if version(name) is None:
        pytest.skip(f"{name} is not installed")
    assert said(name, small(problem, variant)) == ""


# The reference of onnx splits a transposed convolution into groups only where each channel is one.
@pytest.mark.parametrize(
    "problem", [*(name for name in PROBLEMS if name != "transposed"), "transposed:n1_c4_o6_i7_k4_s2_pad1_t", MOVED]
)
def test_the_graph_is_right_by_the_reference_of_onnx(problem):
    reference = pytest.importorskip("onnx.reference")
    from omniconv.analysis.benchmark.peers.onnx_graph import fed, graph_of

    benchmark = small(problem, "cf")
    operands = operands_of(benchmark, "cpu")
    inputs = {name: tensor.numpy() for name, tensor in fed(benchmark, operands).items()}
    outputs = reference.ReferenceEvaluator(graph_of(benchmark, operands)).run(None, inputs)
    answer = [torch.from_numpy(output.astype("float32")) for output in outputs]
    assert complaint(answer, right_answer(benchmark, operands), torch.float32) == ""


def test_a_family_that_torch_lacks_has_no_peer_in_torch():
    chosen = [small(next(iter(family.cases.values())), "cf") for family in families().values()]
    lacking = [benchmark for benchmark in chosen if not benchmark.family.benchmarks.plain(benchmark.problem)]
    assert lacking
    for benchmark in lacking:
        for name in TORCH:
            with pytest.raises(Unavailable, match="no such operator"):
                said(name, benchmark)


@pytest.mark.parametrize(
    "problem", ["conv:n1_c2_o2_i7_k4_s2_pad1:2", "transposed:n1_c3_o2_i4x5_k5x4_s2x2_pad3:1x2:1_t_b"]
)
def test_torch_says_where_it_pads_both_sides_alike(problem):
    with pytest.raises(Unavailable, match="both sides of an axis alike"):
        said("torch", small(problem, "cf"))


@pytest.mark.parametrize("variant", ["cf", "cf.train"])
def test_a_wrong_answer_is_seen(variant):
    benchmark = small("depthwise", variant)
    operands = operands_of(benchmark, "cpu")
    right = right_answer(benchmark, operands)
    for at in range(len(right)):
        answer = [tensor.float() * (1.001 if index == at else 1) for index, tensor in enumerate(right)]
        assert "rounding explains" in complaint(answer, right, torch.float32)
    assert "shape" in complaint([tensor[:1] for tensor in right], right, torch.float32)
    assert complaint([tensor.float() * torch.nan for tensor in right], right, torch.float32)


def test_torch_answers_where_the_formula_would_take_long(monkeypatch):
    benchmark = small("heads", "cf.train")
    operands = operands_of(benchmark, "cpu")
    slow = right_answer(benchmark, operands)
    monkeypatch.setattr("omniconv.analysis.benchmark.answer.MOST_ELEMENTS", 0)
    for mine, its in zip(right_answer(benchmark, operands), slow, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-12)


def test_tensors_lie_as_asked():
    image, weight = operands_of(small("depthwise", "cl"), "cpu").leaves
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    sequence, _, _ = operands_of(small("causal", "cl"), "cpu").leaves
    assert sequence.transpose(1, 2).is_contiguous()
    assert operands_of(small("causal", "cf"), "cpu").leaves[0].is_contiguous()


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.setattr("omniconv.analysis.benchmark.peers.metadata.version", _missing)
    assert version("jax") is None
    with pytest.raises(Unavailable, match="not installed"):
        said("jax", small("depthwise", "cf"))


def _missing(package):
    from importlib import metadata

    raise metadata.PackageNotFoundError(package)
