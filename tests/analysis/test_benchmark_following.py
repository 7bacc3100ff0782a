# SPDX-License-Identifier: Apache-2.0
"""A convolution timed with what follows it: variants, right answers, every peer, and what a wrong one is told."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import omniconv
import targets
from omniconv.analysis.benchmark import measure
from omniconv.analysis.benchmark.answer import complaint, right_answer
from omniconv.analysis.benchmark.measure import ours
from omniconv.analysis.benchmark.operands import operands_of
from omniconv.analysis.benchmark.peers import PEERS, Unavailable, prepared
from omniconv.analysis.benchmark.peers.plain import answered
from omniconv.analysis.benchmark.problems import ACTIVATIONS, Benchmark, every
from omniconv.analysis.machine import Machine
from omniconv.core.family import families
from omniconv.core.library import absent
from omniconv.core.problem import ConvProblem
from tolerance import assert_close

MACHINE = Machine("assumed", "cpu", "float32", 1, "2.13.0", 1e11, ((1e6, 4e10),))
PROBLEMS = {
    "sequence": "conv:n2_c12_o20_i9_k1_b",
    "image": "conv:n2_c12_o20_i7x6_k1x1_s2x1_b",
    "volume": "conv:n1_c6_o5_i3x4x5_k1x1x1_b",
    "block": "depthwise_separable:n2_c6_o4_i9x11_k3x3_pad1_b_depthwise-bias=1_multiplier=1",
    "spoken": "depthwise_separable:n2_c8_o12_i17_k5_pad2_b_depthwise-bias=1_multiplier=1",
}
needs_kernels = pytest.mark.skipif(bool(absent()), reason=absent())


def small(problem, variant):
    return Benchmark.of("small", problem, ConvProblem.parse(PROBLEMS.get(problem, problem)), variant)


def said(name, benchmark):
    """What is wrong with the answer of a peer, or of ours."""
    operands = operands_of(benchmark, "cpu")
    with torch.inference_mode(mode=not benchmark.training):
        own = name == "omniconv"
        call = answered(ours(benchmark, operands), operands) if own else prepared(name, benchmark, operands, 1)
        return complaint(call.read(call.run()), right_answer(benchmark, operands), getattr(torch, benchmark.dtype))


@pytest.mark.parametrize(
    ("variant", "fields"),
    [
        ("cl.relu6", ("cl", "float32", "forward", "relu6", False)),
        ("cf.silu.add", ("cf", "float32", "forward", "silu", True)),
        ("cl.bf16.relu", ("cl", "bfloat16", "forward", "relu", False)),
        ("cf.add.train", ("cf", "float32", "training", "", True)),
        ("cl.bf16.hardswish.add.train", ("cl", "bfloat16", "training", "hardswish", True)),
        ("cl.train", ("cl", "float32", "training", "", False)),
    ],
)
def test_a_variant_says_what_follows(variant, fields):
    found = small("image", variant)
    assert (found.layout, found.dtype, found.mode, found.activation, found.add) == fields
    assert found.name == f"image/{variant}"
    assert found.followed == any(fields[3:])


@pytest.mark.parametrize("variant", ["cf.{}", "cl.{}", "cl.{}.add", "cf.{}.add.train", "cl.{}.train"])
@pytest.mark.parametrize("word", ACTIVATIONS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_ours_is_right(problem, word, variant):
    assert said("omniconv", small(problem, variant.format(word))) == ""


@pytest.mark.parametrize("variant", ["cl.add", "cf.bf16.relu6.add", "cl.bf16.gelu", "cf.bf16.relu.train"])
@pytest.mark.parametrize("problem", ["sequence", "image", "block"])
@pytest.mark.parametrize("name", ["omniconv", "torch", "jax"])
def test_an_addend_alone_and_halves_are_right(name, problem, variant):
    if name == "jax":
        pytest.importorskip("jax")
    assert said(name, small(problem, variant)) == ""


@pytest.mark.parametrize("variant", ["cf.{}", "cl.{}.add", "cl.{}.add.train"])
@pytest.mark.parametrize("word", ACTIVATIONS)
@pytest.mark.parametrize("problem", ["sequence", "block"])
@pytest.mark.parametrize("name", [name for name in PEERS if name != "compile"])
def test_a_peer_is_right_or_says_why_not(name, problem, word, variant):
    for package in PEERS[name].packages:
        pytest.importorskip(package)
    benchmark = small(problem, variant.format(word))
    if PEERS[name].refuse(benchmark) or (name == "torch_cl" and benchmark.layout == "cl" and problem == "block"):
        with pytest.raises(Unavailable):
            said(name, benchmark)
    else:
        assert said(name, benchmark) == ""


@pytest.mark.parametrize("variant", ["cl.silu.add", "cf.relu6.train"])
def test_compiled_is_right(variant):
    assert said("compile", small("block", variant)) == ""


@pytest.mark.parametrize("word", ["", *ACTIVATIONS])
@pytest.mark.parametrize("problem", ["image", "block"])
def test_the_graph_is_right_by_the_reference_of_onnx(problem, word):
    reference = pytest.importorskip("onnx.reference")
    from omniconv.analysis.benchmark.peers.onnx_graph import fed, graph_of

    benchmark = small(problem, f"cf.{word}.add".replace("..", "."))
    operands = operands_of(benchmark, "cpu")
    inputs = {name: tensor.numpy() for name, tensor in fed(benchmark, operands).items()}
    assert set(inputs) == {"input", "residual"}
    outputs = reference.ReferenceEvaluator(graph_of(benchmark, operands)).run(None, inputs)
    answer = [torch.from_numpy(output.astype("float32")) for output in outputs]
    assert complaint(answer, right_answer(benchmark, operands), torch.float32) == ""


def test_the_activation_follows_each_convolution_and_the_addend_comes_before_the_last():
    benchmark = small("block", "cf.relu6.add.train")
    operands = operands_of(benchmark, "cpu").wide()
    x, taps, across, bias, taps_bias, residual = operands.arguments
    between = F.relu6(F.conv2d(x, taps, taps_bias, padding=1, groups=6))
    output = F.relu6(F.conv2d(between, across, bias) + residual)
    mine = (output, *torch.autograd.grad(output, operands.leaves, operands.gradient))
    assert len(mine) == 7
    for own, right in zip(mine, right_answer(benchmark, operands), strict=True):
        assert_close(own, right)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_torch_answers_where_the_formula_would_take_long(problem, monkeypatch):
    benchmark = small(problem, "cf.silu.add.train")
    operands = operands_of(benchmark, "cpu")
    slow = right_answer(benchmark, operands)
    monkeypatch.setattr("omniconv.analysis.benchmark.answer.MOST_ELEMENTS", 0)
    for mine, its in zip(right_answer(benchmark, operands), slow, strict=True):
        assert_close(mine, its)


@pytest.mark.parametrize("problem", ["image", "block"])
@pytest.mark.parametrize("without", ["cf.relu6", "cf.add", "cf.silu.add"])
def test_an_answer_without_a_part_or_with_another_is_seen(problem, without):
    benchmark, other = small(problem, "cf.relu6.add"), small(problem, without)
    operands = operands_of(benchmark, "cpu")
    given = operands if other.add else operands_of(other, "cpu")
    answer = [tensor.float() for tensor in right_answer(other, given)]
    assert "rounding explains" in complaint(answer, right_answer(benchmark, operands), torch.float32)


@pytest.mark.parametrize("problem", ["image", "block"])
def test_sums_are_exact_and_none_is_at_a_kink(problem):
    """So that which side of a kink a sum is on, and with it the gradient, is no matter of rounding."""
    benchmark = small(problem, "cf.relu6.add")
    operands = operands_of(benchmark, "cpu")
    sums = []
    for given in (operands, operands.wide()):
        x, weight, *rest, residual = given.arguments
        if problem == "block":
            across, bias, taps_bias = rest
            first = F.conv2d(x, weight, taps_bias, padding=1, groups=6)
            second = F.conv2d(F.relu6(first), across, bias) + residual
            sums.append(torch.cat([first.flatten(), second.flatten()]))
        else:
            sums.append((F.conv2d(x, weight, rest[0], stride=(2, 1)) + residual).flatten())
    narrow, wide = sums
    assert torch.equal(narrow.double(), wide)
    assert not bool(((wide == 0) | (wide == 6)).any())
    assert 0.3 < float(wide.std()) < 3


@needs_kernels
@pytest.mark.parametrize(
    ("problem", "where"),
    [("image", "omniconv.ops.conv.pointwise.computed"), ("block", "omniconv.ops.depthwise_separable.block.computed")],
)
def test_inference_is_one_call(problem, where, monkeypatch):
    def parts(*_):
        raise AssertionError

    monkeypatch.setattr(where, parts)
    for variant in ("cf.silu", "cl.relu6.add"):
        assert said("omniconv", small(problem, variant)) == ""
    with pytest.raises(AssertionError):
        said("omniconv", small(problem, "cl.relu6.add.train"))


def test_every_followed_problem_has_a_layer():
    found = [benchmark for benchmark in every() if benchmark.followed]
    assert {benchmark.group for benchmark in found} == {"pointwise", "depthwise separable"}
    for problem in {benchmark.problem for benchmark in found}:
        layer = families()[problem.family].benchmarks.followed(problem, F.relu)
        assert layer.activation is F.relu
        assert layer.problem == ConvProblem.parse(str(layer.problem))


def test_only_layers_with_an_activation_are_followed():
    with pytest.raises(ValueError, match="must be pointwise"):
        said("omniconv", small("conv:n1_c4_o4_i5_k3", "cf.relu"))
    with pytest.raises(ValueError, match="no layer with an activation"):
        said("omniconv", small("transposed:n1_c4_o6_i7_k4_s2_pad1_t", "cf.relu"))


# 8 pictures of 1280 channels become 1000: 4 bytes of each, of the weights and of the biases, and of what is added.
@pytest.mark.parametrize(("variant", "more"), [("cl.gelu", 0), ("cl.add", 8000), ("cl.relu.add.train", 16000)])
def test_what_is_added_is_read_and_its_gradient_written(variant, more):
    problem = "conv:n8_c1280_o1000_i1x1_k1x1_b"
    without = small(problem, "cl.train" if variant.endswith("train") else "cl").work()
    flops, moved = small(problem, variant).work()
    assert (flops, moved) == (without[0], without[1] + 4 * more)


@pytest.fixture
def _row(monkeypatch):
    """One small followed problem, on a machine that takes no time to measure."""
    monkeypatch.setattr(measure, "measure_machine", lambda *_: MACHINE)
    chosen = [small("conv:n1_c16_o16_i5x5_k1x1_b", "cf.relu6.add")]
    monkeypatch.setattr("omniconv.analysis.benchmark.bench.benchmarks", lambda *_, **__: chosen)


@pytest.mark.usefixtures("_row")
def test_a_row_has_the_fields_of_every_other():
    found = omniconv.bench(peers=["torch"], seconds=0.02)
    (row,) = found.to_dict()["rows"]
    assert row["name"].endswith("/cf.relu6.add")
    assert row["peers"]["torch"]["speedup"]["median"] > 0
    assert row["of_bound"] == pytest.approx(row["bound_ms"] / row["ms"]["median"])


@pytest.mark.usefixtures("_row")
def test_a_peer_that_forgets_what_is_added_gets_no_time(monkeypatch):
    def run(*arguments):
        return F.relu6(F.conv2d(*arguments[:3]))

    monkeypatch.setattr(measure, "prepared", lambda name, benchmark, operands, threads: answered(run, operands))
    (row,) = omniconv.bench(peers=["torch"], seconds=0.02).to_dict()["rows"]
    assert row["peers"]["torch"]["why"].startswith("wrong: the output differs")


@pytest.mark.usefixtures("_row")
def test_a_wrong_layer_gets_no_time(monkeypatch):
    right = measure.ours

    def wrong(benchmark, operands):
        function = right(benchmark, operands)
        return lambda *arguments: function(*arguments) * 1.001

    monkeypatch.setattr(measure, "ours", wrong)
    (row,) = omniconv.bench(peers=["torch"], seconds=0.02).to_dict()["rows"]
    assert "differs from the formula" in row["wrong"]
    assert "ms" not in row


def test_a_target_is_for_problems_of_some_length():
    spread = {"median": 1.0, "q1": 1.0, "q3": 1.0, "samples": 9}
    about = {"mode": "forward", "dtype": "float32", "ms": spread, "of_bound": 0.5, "peers": {}}
    rows = [
        {"name": name, "group": group, "bound_ms": bound} | about
        for group in ("pointwise", "depthwise separable")
        for name, bound in ((f"{group} long", 0.1), (f"{group} short", 0.05))
    ]
    assert set(targets.below(rows)) == {"pointwise long", "depthwise separable long", "depthwise separable short"}
