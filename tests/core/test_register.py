# SPDX-License-Identifier: Apache-2.0
"""``Plan`` and ``planned``: what is checked and when, calls without a batch, plans remembered by value and type."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.family import families
from omniconv.core.library import absent
from omniconv.core.observe import listening
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan, operator
from tolerance import assert_close, assert_equal

needs_library = pytest.mark.skipif(bool(absent()), reason=absent())


def plan_of(text="conv:c4_o6_k3x3_g2_pad1_b"):
    return Plan(ConvProblem.parse(text))


def tensors(dtype=torch.float32, batch=(2,)):
    return torch.randn(*batch, 4, 5, 6, dtype=dtype), torch.randn(6, 2, 3, 3, dtype=dtype), torch.randn(6, dtype=dtype)


def test_every_kernel_is_an_operator_with_the_schema_of_its_record():
    for family in families().values():
        assert family.tensor_names[0] == "input"
        for kernel in family.kernels:
            if not kernel.compiled:
                schema = str(operator(family.name, kernel.name)._schema)
                assert schema == f"omniconv::{family.name}.{kernel.name}{family.schema}"


def test_a_compiled_kernel_is_four_operators_of_tensors_and_integers():
    found = 0
    for family in families().values():
        arguments = family.schema[1 : family.schema.index(")")].split(", ")
        tensors = ", ".join(a for a in arguments if a.startswith("Tensor"))
        gradients = ", ".join(["Tensor"] * len(family.tensor_names))
        for kernel in family.kernels:
            if kernel.compiled:
                found += 1
                name = f"omniconv::{family.name}_{kernel.name}"
                for end in ("", "_raw"):
                    forward, backward = (compiled_operator(name + part + end) for part in ("", "_backward"))
                    assert str(forward._schema) == f"{name}{end}({tensors}, SymInt[] numbers) -> Tensor"
                    assert str(backward._schema) == (
                        f"{name}_backward{end}(Tensor grad, {tensors}, SymInt[] numbers, int wanted) -> ({gradients})"
                    )
    assert found


def compiled_operator(qualified):
    return getattr(torch.ops.omniconv, qualified.removeprefix("omniconv::")).default


def test_a_plan_runs_its_kernel_and_the_operator_computes_the_same():
    plan, (x, weight, bias) = plan_of(), tensors(torch.float64)
    want = torch.nn.functional.conv2d(x, weight, bias, padding=1, groups=2)
    assert_equal(plan(x, weight, bias), want)
    assert_equal(plan._operator(x, weight, bias, *plan.family.numbers(plan.problem, (5, 6))), want)


def test_a_plan_copies_and_pickles_as_its_problem():
    plan, given = plan_of(), tensors()
    for other in (copy.deepcopy(plan), pickle.loads(pickle.dumps(plan))):  # noqa: S301  # made a moment ago
        assert other.problem == plan.problem
        assert other.choice == plan.choice
        assert_equal(other(*given), plan(*given))


def test_a_plan_refuses_the_numbers_that_its_family_refuses():
    with pytest.raises(ValueError, match="`heads`"):
        Plan(ConvProblem.parse("lightweight:c4_o4_k3_g4_head-layout=blocks_heads=3_softmax=1"))
    with pytest.raises(ValueError, match=re.escape("`family` (='other') is not registered; use conv, transposed,")):
        Plan(ConvProblem.parse("other:c4_o4_k3"))


@pytest.mark.parametrize("family", families().values(), ids=lambda family: family.name)
def test_without_a_batch_the_result_has_none(family):
    problem = next(p for p in map(ConvProblem.parse, family.cases.values()) if p.batch > 1)
    plan = Plan(problem)
    given = {
        name: None if shape is None else torch.randn(shape, dtype=torch.float64)
        for name, shape in family.tensors(problem).items()
    }
    assert set(family.batched) <= set(given)
    alone = {name: t[1] if name in family.batched and t is not None else t for name, t in given.items()}
    assert_close(plan(*alone.values()), plan(*given.values())[1])


WRONG = {
    "not a tensor": (lambda x, w, b: (None, w, b), TypeError, "`input` (=NoneType) must be a torch.Tensor."),
    "no weight": (lambda x, w, b: (x, None, b), TypeError, "`weight` (=None) must be a torch.Tensor of shape (6, 2"),
    "no bias": (lambda x, w, b: (x, w, None), TypeError, "`bias` (=None) must be a torch.Tensor of shape (6,)."),
    "an array": (lambda x, w, b: (x, w, b.numpy()), TypeError, "`bias` (=ndarray) must be a torch.Tensor."),
    "dimensions": (lambda x, w, b: (x[0, 0], w, b), ValueError, "`input` has 2 dimensions and must have 4"),
    "channels": (lambda x, w, b: (x[:, :3], w, b), ValueError, "`input` channels (=3) must be `in_channels` (=4"),
    "weight": (lambda x, w, b: (x, w[:, :1], b), ValueError, "`weight` shape (=(6, 1, 3, 3)) must be (6, 2, 3, 3)."),
    "bias": (lambda x, w, b: (x, w, b[:1]), ValueError, "`bias` shape (=(1,)) must be (6,)."),
    "integers": (lambda x, w, b: (x.int(), w, b), TypeError, "`input` dtype (=torch.int32) must be a floating"),
    "dtype": (lambda x, w, b: (x, w.half(), b), TypeError, "must be that of the input (=torch.float32); use .to()."),
    "device": (lambda x, w, b: (x.to("meta"), w, b), ValueError, "`weight` device (=cpu) must be that of the input"),
    "no positions": (lambda x, w, b: (x[..., :0], w, b), ValueError, "`input` size (=0) on spatial axis 1 must be at"),
}


@pytest.mark.parametrize(("change", "error", "text"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("used", [False, True], ids=["first", "after a good one"])
@pytest.mark.parametrize(  # compiled; ATen's with bound numbers; without
    "kernel", [pytest.param("native", marks=needs_library), "direct", "padded"]
)
def test_wrong_tensors_are_named_at_every_call(change, error, text, used, kernel):
    plan, good = plan_of(), tensors()
    plan = Plan(plan.problem, next(one for one in plan.family.kernels if one.name == kernel))
    if used:
        plan(*good)
    for _ in range(2):
        with pytest.raises(error, match=re.escape(text)):
            plan(*change(*good))
    plan(*good)


DEFORMED = "deformable:c4_o6_k3x3_pad1_b_head=0_mask=1_offset-groups=2"


def deformed():
    shapes = (2, 4, 5, 6), (2, 36, 5, 6), (6, 4, 3, 3), (6,), (2, 18, 5, 6)
    return [torch.randn(shape) for shape in shapes]


@pytest.mark.parametrize("kernel", [pytest.param("native", marks=needs_library), "gathered"])
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize(("at", "name"), [(1, "offset"), (4, "mask")])
def test_a_tensor_that_goes_with_the_input_must_have_its_size(at, name, differentiable, kernel):
    plan, good = plan_of(DEFORMED), deformed()
    plan = Plan(plan.problem, next(one for one in plan.family.kernels if one.name == kernel))
    right = good[at].requires_grad_(differentiable)
    wrong = [right.narrow(axis, 0, size) for axis in range(4) for size in range(right.shape[axis])]
    wrong += [torch.cat([right, right], axis) for axis in range(4)]
    wrong += [right[0], right[None], right[:, None], right.flatten(2), right.sum(), right.transpose(2, 3)]
    for tensor in wrong:
        text = f"`{name}` shape (={tuple(tensor.shape)}) must be {tuple(right.shape)}."
        with pytest.raises(ValueError, match=re.escape(text)):
            plan(*good[:at], tensor, *good[at + 1 :])
    with pytest.raises(ValueError, match=re.escape("must be (1, 36, 4, 6).")):
        plan(good[0][:1, :, 1:], *good[1:])
    for tensor in (right.bfloat16(), right.double(), right.to("meta"), None, right.detach().numpy()):
        with pytest.raises((TypeError, ValueError), match=f"`{name}` "):
            plan(*good[:at], tensor, *good[at + 1 :])


@needs_library
@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("text", ["conv:c4_o6_k3x3_g2_pad1_b", DEFORMED])
def test_nothing_stands_between_ordinary_tensors_and_the_compiled_kernel(text, differentiable):
    plan, given = plan_of(text), deformed() if text == DEFORMED else tensors()
    plan._check = None
    output = plan(*[t.requires_grad_(differentiable) for t in given])
    assert output.requires_grad is differentiable


def test_a_tensor_without_a_place_is_refused():
    x, weight, bias = tensors()
    with pytest.raises(
        ValueError, match=re.escape("`bias` (of shape (6,)) has no place in this convolution; use None.")
    ):
        plan_of("conv:c4_o6_k3x3_g2")(x, weight, bias)


def test_a_type_mixed_under_autocast_is_not_taken_outside_it():
    plan, (x, weight, bias) = plan_of(), tensors()
    with torch.autocast("cpu", torch.bfloat16):
        assert plan(x, weight.bfloat16(), bias).dtype == torch.bfloat16
    for _ in range(2):
        with pytest.raises(TypeError, match=re.escape("`weight` dtype (=torch.bfloat16) must be that of the input")):
            plan(x, weight.bfloat16(), bias)


def test_what_was_checked_is_remembered_within_bounds():
    plan, (_, weight, bias) = plan_of(), tensors()
    for height in range(1, 300):
        plan(torch.ones(1, 4, height, 1), weight, bias)
        plan(torch.ones(1, 4, height, 1), weight, bias)
        assert len(plan._check.accepted) <= 256


def test_a_plan_hears_a_listener_with_the_size_of_its_input():
    seen, plan, given = [], plan_of(), tensors()

    def listener(problem, _tensors, run):
        seen.append(problem)
        return run()

    with listening(listener):
        plan(*given)
    assert seen == [plan.problem.at((5, 6), 2)]


@pytest.mark.parametrize("compiled", [False, True], ids=["composite", "compiled"])
def test_what_a_kernel_calls_is_not_heard(compiled):
    seen, plan, (x, weight, bias) = [], plan_of(), tensors()
    kernel = SimpleNamespace(flat=SimpleNamespace(pack=tuple), takes=lambda tensor, leaves: compiled, lowered=tuple)
    kernel.eager = lambda run, tensors, flat, _: OF.conv2d(run(*tensors, *flat), torch.ones(1, 6, 1, 1))
    run = plan._run
    plan._native = kernel
    if not compiled:
        plan._run = lambda *arguments: OF.conv2d(run(*arguments), torch.ones(1, 6, 1, 1))
    with listening(lambda problem, _tensors, run: seen.append(problem) or run()):
        assert plan(x, weight, bias).shape == (2, 1, 5, 6)
    assert [problem.out_channels for problem in seen] == [6]


def counted():
    """``planned`` over a build that counts its calls."""
    built = []

    @planned
    def find(channels, stride, padding):
        built.append((channels, stride, padding))
        return ConvProblem.of("conv", 1, channels, channels, 3, stride, padding)

    return find, built


def test_the_same_arguments_are_planned_once():
    find, built = counted()
    assert find(4, 2, ((1, 0),)) is find(4, 2, ((1, 0),))
    assert find(4, 2, ((1, 0),)) is not find(4, 2, ((0, 1),))
    assert len(built) == 2


@pytest.mark.parametrize("wrong", [1.0, True])
def test_equal_values_of_another_type_are_not_taken_for_them(wrong):
    find, _ = counted()
    find(4, 1, ((1, 1),))
    for _ in range(2):
        with pytest.raises(TypeError, match=re.escape(f"`stride` (={wrong!r}) must be an integer")):
            find(4, wrong, ((1, 1),))
        with pytest.raises(TypeError, match=re.escape(f"`padding` (={wrong!r}) must be an integer")):
            find(4, 1, ((1, wrong),))
    x, weight = torch.ones(1, 1, 5), torch.ones(1, 1, 3)
    OF.conv1d(x, weight, stride=1, padding=(1,), dilation=1, groups=1)
    for name in ("stride", "padding", "dilation", "groups"):
        with pytest.raises(TypeError, match=re.escape(f"`{name}`")):
            OF.conv1d(x, weight, **{name: wrong})
        if name != "groups":
            with pytest.raises(TypeError, match=re.escape(f"`{name}`")):
                OF.conv1d(x, weight, **{name: (wrong,)})


def test_arguments_that_cannot_be_remembered_are_planned_each_time():
    find, built = counted()
    assert find(4, [1], [0]).problem == find(4, [1], [0]).problem
    assert len(built) == 2
    assert find(4, 1, 0).problem == find(4, [1], [0]).problem


def test_an_error_is_not_remembered_as_a_plan():
    find, built = counted()
    for _ in range(2):
        with pytest.raises(ValueError, match="at least 1"):
            find(4, 0, 0)
    assert len(built) == 2


def test_plans_are_forgotten_past_a_bound():
    find, built = counted()
    first = find(1, 1, 0)
    for padding in range(1, 4097):
        find(1, 1, padding)
    assert find(1, 1, 0) is not first
    assert len(built) == 4098


def test_a_layer_that_gets_a_bias_gets_a_plan_that_has_one():
    layer = nn.Conv1d(2, 2, 3, bias=False)
    before = layer.plan
    layer.bias = torch.nn.Parameter(torch.ones(2))
    assert layer.plan.problem == replace(before.problem, bias=True)


def broad(channels, size, dtype):
    plan = Plan(ConvProblem.parse(f"conv:n1_c{2 * channels}_o{2 * channels}_i{size}x{size}_k3x3_g2_pad1"))
    return plan, torch.randn(1, 2 * channels, size, size).to(getattr(torch, dtype))


@needs_library
@pytest.mark.parametrize(("channels", "left"), [(4, ()), (8, ("bfloat16",)), (16, ("bfloat16", "float32"))])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_broad_groups_in_channels_last_are_left_to_aten(channels, left, dtype):
    plan, given = broad(channels, 14, dtype)
    inside = given.contiguous(memory_format=torch.channels_last)
    assert plan._native.takes(given, plan._leaves)
    assert plan._native.takes(inside, plan._leaves) is (dtype not in left)
    weight = torch.randn(2 * channels, channels, 3, 3).to(given.dtype)
    want = torch.nn.functional.conv2d(inside.double(), weight.double(), None, 1, 1, 1, 2)
    for input in (given, inside):
        assert_close(plan(input, weight, None), want)


@needs_library
def test_small_images_in_bfloat16_are_not_left_to_aten():
    for size, dtype, left in ((13, "bfloat16", False), (14, "bfloat16", True), (13, "float32", True)):
        plan, given = broad(16, size, dtype)
        inside = given.contiguous(memory_format=torch.channels_last)
        assert plan._native.takes(inside, plan._leaves) is not left, (size, dtype)


@pytest.mark.parametrize("rest", ["i28x28_k9x9_g2", "i28x28_k3x3_g2_d2", "i28_k3_g2", "i14x14x14_k3x3x3_g2"])
def test_only_usual_images_are_left_in_bfloat16(rest):
    assert torch.bfloat16 not in Plan(ConvProblem.parse(f"conv:n1_c32_o32_{rest}"))._leaves


@needs_library
@pytest.mark.parametrize("channels", [8, 16])
def test_groups_that_onednn_computes_wrongly_in_bfloat16_are_right(channels):
    plan = Plan(ConvProblem.parse(f"conv:n2_c{2 * channels}_o{2 * channels}_i28x8_k7x7_s2_g2_pad3x0"))
    torch.manual_seed(0)
    input = torch.randint(-3, 4, (2, 2 * channels, 28, 8)).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = torch.randint(-2, 3, (2 * channels, channels, 7, 7)).bfloat16()
    want = torch.nn.functional.conv2d(input.double(), weight.double(), None, 2, (3, 0), 1, 2)
    assert torch.equal(plan(input, weight, None), want.bfloat16())


@needs_library
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_left_to_aten_is_right(dtype):
    torch.manual_seed(0)

    def drawn(values):
        return values[int(torch.randint(len(values), ()))]

    for _ in range(60):
        groups, channels, taps, step = map(drawn, ((2, 3, 4), (8, 16), (1, 2, 3, 5, 7), (1, 2, 3)))
        height, width, pad = drawn(range(14, 31)), drawn(range(14, 31)), drawn(range(taps + 1))
        whole = groups * channels
        rest = f"i{height}x{width}_k{taps}x{taps}_s{step}x{step}_g{groups}_pad{pad}"
        plan = Plan(ConvProblem.parse(f"conv:n1_c{whole}_o{whole}_{rest}"))
        shapes = (1, whole, height, width), (whole, channels, taps, taps)
        input, weight = (torch.randint(-3, 4, shape).double() for shape in shapes)
        leaves = [t.to(getattr(torch, dtype)).requires_grad_() for t in (input, weight)]
        twins = [t.requires_grad_() for t in (input, weight)]
        output = plan(leaves[0].contiguous(memory_format=torch.channels_last), leaves[1], None)
        want = torch.nn.functional.conv2d(*twins, None, step, pad, 1, groups)
        grads = torch.autograd.grad(output.sum(), leaves), torch.autograd.grad(want.sum(), twins)
        for mine, right in zip((output, *grads[0]), (want, *grads[1]), strict=True):
            torch.testing.assert_close(mine.double(), right, rtol=2**-7, atol=1e-3, msg=str(plan.problem))


@pytest.mark.parametrize("kernel", [pytest.param("native", marks=needs_library), "direct", "padded"])
def test_too_few_and_too_many_tensors_are_counted(kernel):
    given = tensors()
    plan = plan_of()
    plan = Plan(plan.problem, next(one for one in plan.family.kernels if one.name == kernel))
    for wrong in (given[:2], (*given, given[2])):
        with pytest.raises(TypeError, match=f"takes 3 tensors .*, not {len(wrong)}"):
            plan(*wrong)
