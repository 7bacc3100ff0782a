# SPDX-License-Identifier: Apache-2.0
"""What follows a convolution of another library: one pass over its output, or beside it, equals the parts."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from core.test_followed_refusals import ACTIVATIONS, EPSILON, norm_of, normed
from core.test_native_refusals import other_tensors, refuses
from omniconv import nn
from omniconv.core import follow
from omniconv.core.library import absent
from tolerance import assert_close

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())


def run(*arguments):
    return torch.ops.omniconv.follow_(*arguments)


def laid(tensor, inside):
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if inside else tensor.contiguous()


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "shape", [(2, 5, 7), (1, 1, 3, 3), (3, 40, 9, 8), (2, 3, 4, 5, 6), (0, 4, 3, 3), (1, 33, 60, 70), (2, 17, 1, 1)]
)
def test_one_pass_equals_the_parts(shape, dtype, inside, activation):
    for normal in (False, True):
        for beside in (None, False, True):
            output = laid(torch.randn(shape), inside).to(dtype)
            norm = [term.to(dtype) for term in norm_of(shape[1])] if normal else []
            addend = None if beside is None else laid(torch.randn(shape), beside).to(dtype)
            want = normed(output.double(), norm, EPSILON)
            want = ACTIVATIONS[activation](want if addend is None else want + addend.double())
            strides = output.stride()
            run(output, norm, EPSILON, addend, activation)
            assert output.stride() == strides
            assert_close(output, want)


@pytest.mark.parametrize("activation", range(len(ACTIVATIONS)))
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 7), (2, 3, 4, 5, 6), (0, 4, 3, 3), (1, 33, 60, 70), (3, 17)])
def test_beside_what_it_is_computed_from(shape, dtype, inside, activation):
    input = laid(torch.randn(shape), inside).to(dtype)
    before = input.clone()
    output = torch.ops.omniconv.activate(input, activation)
    assert torch.equal(input, before)
    assert output.stride() == input.stride() or output.numel() == 0
    assert_close(output, ACTIVATIONS[activation](input.double()))


def test_what_has_gaps_or_no_number_is_refused():
    for input, number in ((torch.randn(2, 6, 5, 8)[..., ::2], 1), (torch.randn(2, 6).double(), 1), (torch.randn(4), 1)):
        with pytest.raises(RuntimeError):
            torch.ops.omniconv.activate(input, number)
    for number in (-1, len(ACTIVATIONS)):
        with pytest.raises(RuntimeError, match=f"no activation number {number}"):
            torch.ops.omniconv.activate(torch.randn(2, 6), number)


def test_what_disagrees_is_refused():
    right = torch.randn(2, 6, 5, 4)
    arguments = (right, norm_of(6), EPSILON, torch.randn(2, 6, 5, 4), 3)
    wrong = {f"output: {what}": (other, *arguments[1:]) for what, other in other_tensors(right)}
    wrong |= {f"addend: {what}": (*arguments[:3], other, 3) for what, other in other_tensors(arguments[3])}
    wrong |= {
        "every second output": (torch.randn(2, 6, 5, 8)[..., ::2], *arguments[1:]),
        "channels of more": (laid(torch.randn(2, 9, 5, 4), True)[:, :6], *arguments[1:]),
        "expanded": (torch.randn(2, 6, 1, 1).expand(2, 6, 5, 4), *arguments[1:]),
        "channels": (right, norm_of(5), *arguments[2:]),
        "three terms": (right, norm_of(6)[:3], *arguments[2:]),
        "no such activation": (*arguments[:4], 7),
        "a negative one": (*arguments[:4], -1),
    }
    del wrong["addend: None"]
    assert [what for what, given in wrong.items() if not refuses(run, *given)] == []


@pytest.fixture
def passes(monkeypatch):
    """A list that grows by one with each pass."""
    right, calls = follow._pass(), []
    monkeypatch.setattr(follow, "_pass", lambda: lambda *arguments: calls.append(1) or right(*arguments))
    return calls


def float64_of(layer, *inputs):
    return layer.double()(*(one.double() for one in inputs))


@pytest.mark.parametrize("inside", [False, True])
def test_behind_a_convolution_of_another_library(passes, inside):
    """Groups of 32 channels are left to ATen."""
    layer = nn.PointwiseConv2d(64, 64, groups=2, norm=torch.nn.BatchNorm2d, activation=torch.nn.SiLU).eval()
    x, residual = laid(torch.randn(2, 64, 6, 5), inside), torch.randn(2, 64, 6, 5)
    with torch.no_grad():
        got = layer(x, residual)
        assert len(passes) == 1
        assert_close(got, float64_of(layer, x, residual))


@pytest.mark.parametrize("inside", [False, True])
def test_gradients_hooks_and_other_types_take_the_parts(passes, inside):
    layer, x = nn.PointwiseConv2d(64, 64, groups=2, activation=torch.nn.GELU), laid(torch.randn(2, 64, 6, 5), inside)
    want = F.gelu(F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), groups=2))
    assert_close(layer(x), want)
    with torch.no_grad():
        hook = layer.activation.register_forward_hook(lambda *_: None)
        assert_close(layer(x), want)
        hook.remove()
        with FlopCounterMode(display=False):  # who sees operators run may keep what they return
            assert_close(layer(x), want)
        assert not passes
        assert_close(layer(x), want)
        assert passes
        passes.clear()
        assert_close(layer.double()(x.double()), want)
    assert not passes


@pytest.mark.parametrize(
    ("layer", "shape", "count"),
    [
        (
            nn.DepthwiseSeparableConv2d(5, 6, 3, 2, "tf_same", mid_activation=torch.nn.ReLU, activation=torch.nn.SiLU),
            (2, 5, 8, 7),
            2,
        ),
        (nn.Linear(5, 6, activation=torch.nn.GELU).bfloat16(), (2, 3, 5), None),
        (nn.PointwiseConv2d(64, 64, norm=torch.nn.BatchNorm2d).bfloat16(), (2, 64, 33, 33), None),
        (nn.PointwiseConv3d(64, 64, groups=2, activation=torch.nn.Hardswish), (2, 64, 3, 4, 5), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
@pytest.mark.parametrize("inside", [False, True])
def test_what_was_given_stays_as_it_was(passes, layer, shape, count, inside):
    """``count``: of passes, where it is the same on every processor."""
    layer, x = layer.eval(), laid(torch.randn(shape), inside).to(next(layer.parameters()).dtype)
    with torch.no_grad():
        residual = torch.randn_like(layer(x))
        passes.clear()
        before = x.clone(), residual.clone()
        got = layer(x, residual)
        assert torch.equal(x, before[0])
        assert torch.equal(residual, before[1])
        assert count is None or len(passes) == count
        assert_close(got, copy.deepcopy(layer).double()(x.double(), residual.double()))
