# SPDX-License-Identifier: Apache-2.0
"""A convolution and its activation, recorded together: gradients, and gradients of these, are those of the parts."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from omniconv import nn
from omniconv.core import activated
from omniconv.core.library import absent
from tolerance import assert_close, assert_equal

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())
DTYPES = (torch.float32, torch.bfloat16)
KINKED = (torch.nn.ReLU, torch.nn.ReLU6, F.relu, F.relu6, torch.relu)
SMOOTH = (torch.nn.SiLU, torch.nn.GELU, partial(torch.nn.GELU, "tanh"), torch.nn.Hardswish, F.silu, F.gelu)
TANH = SMOOTH[2]


@contextmanager
def counted():
    """A list that grows by one with each convolution that is recorded with what follows it."""
    calls, right = [], activated._Activated.apply
    activated._Activated.apply = lambda *arguments: calls.append(1) or right(*arguments)
    try:
        yield calls
    finally:
        activated._Activated.apply = right


def whole(*shape):
    return torch.randint(-3, 4, shape).float()


def pointwise(dim, activation, *, bias=True):
    return getattr(nn, f"PointwiseConv{dim}d")(5, 7, stride=2, bias=bias, activation=activation)


def separable(dim, activation, *, bias=True):
    return getattr(nn, f"DepthwiseSeparableConv{dim}d")(
        5, 7, 3, stride=2, padding=1, bias=bias, depthwise_bias=bias, mid_activation=activation, activation=activation
    )


def plain_separable(dim, activation, *, bias=True):
    """Nothing between the two: they are one convolution, and the activation follows that."""
    return getattr(nn, f"DepthwiseSeparableConv{dim}d")(5, 7, 3, padding=1, bias=bias, activation=activation)


KINDS = {"pointwise": (pointwise, 1), "separable": (separable, 2), "plain separable": (plain_separable, 1)}


def tried(kind, dim, activation, dtype, inside, *, bias=True, add=False):
    """A layer of whole numbers, and its tensors: as they are, and by the parts in float64."""
    layer = KINDS[kind][0](dim, activation, bias=bias)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape))
    x = whole(3, 5, *(9, 8, 7)[:dim])
    args = [x, whole(*layer(x).shape)] if add else [x]
    if inside:
        args = [t.movedim(1, -1).contiguous().movedim(-1, 1) for t in args]
    found = [(layer.to(dtype), [t.to(dtype).requires_grad_() for t in args])]
    return *found, (copy.deepcopy(layer).double(), [t.double().requires_grad_() for t in args])


def gradients(layer, args, grad, **words):
    output = layer(*args)
    return output, torch.autograd.grad(output, [*args, *layer.parameters()], grad.to(output), **words)


@pytest.mark.parametrize("inside", [False, True], ids=["in order", "channels last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", [*KINKED, *SMOOTH])
def test_gradients_are_those_of_the_parts(activation, kind, dim, dtype, inside):
    if activation is torch.nn.Hardswish and kind == "separable":
        pytest.skip("its slope jumps, and numbers that are not whole meet the jump from either side")
    for bias in (True, False):
        for add in (False, True):
            own, exact = tried(kind, dim, activation, dtype, inside, bias=bias, add=add)
            grad = whole(*own[0](*own[1]).shape)  # in order, wherever the output's channels lie
            with counted() as calls:
                found = gradients(*own, grad)
            of_parts = add and activation in SMOOTH
            assert len(calls) == KINDS[kind][1] - of_parts
            output, want = gradients(*exact, grad)
            equal = activation in KINKED and dtype is torch.float32  # whole numbers, masked, stay whole
            for one, other in zip((found[0], *found[1]), (output, *want), strict=True):
                assert one.dtype is dtype
                assert_equal(one.double(), other) if equal else assert_close(one, other)


@pytest.mark.parametrize("activation", [None, torch.nn.ReLU, torch.nn.ReLU6, torch.nn.GELU])
@pytest.mark.parametrize("kind", ["pointwise", "separable"])
def test_gradients_of_gradients(kind, activation):
    for add in (False, True):
        own, exact = tried(kind, 2, activation, torch.float32, inside=True, add=add)
        results = []
        for layer, args in (own, exact):
            output = layer(*args)
            grad = (torch.arange(output.numel()).view(output.shape) % 5 - 2).to(output).requires_grad_()
            first = torch.autograd.grad(output, [*args, *layer.parameters()], grad, create_graph=True)
            leaves = [*args, *layer.parameters(), grad]
            loss = sum((g**2).sum() for g in first)
            results.append(torch.autograd.grad(loss, leaves, allow_unused=True))
        for one, other in zip(*results, strict=True):
            if other is None:
                assert one is None or not one.any()
            else:
                assert_close(one if one is not None else torch.zeros_like(other).float(), other)


def test_only_what_is_asked_for():
    layer = nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU)
    x, residual = whole(2, 5, 4, 4), whole(2, 7, 4, 4).requires_grad_()
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    with counted() as calls:
        output = layer(x, residual)
    output.sum().backward()
    assert calls
    assert_equal(residual.grad, (output > 0).float())
    layer.weight.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.bias.grad is None
    assert layer.weight.grad.any()


def test_batched_gradients():
    layer = nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU6)
    x = whole(2, 5, 4, 4).requires_grad_()
    output = layer(x)
    grads = whole(3, *output.shape)
    (found,) = torch.autograd.grad(output, x, grads, is_grads_batched=True, retain_graph=True)
    want = torch.stack([torch.autograd.grad(output, x, g, retain_graph=True)[0] for g in grads])
    assert_close(found, want.double())


def test_an_output_changed_in_place_is_noticed():
    layer, x = nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU), whole(2, 5, 4, 4).requires_grad_()
    output = layer(x)
    output.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_the_parts_where_someone_looks_at_them():
    x = whole(2, 5, 4, 4).requires_grad_()
    hooked = nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU)
    seen = []
    hooked.activation.register_forward_hook(lambda *given: seen.append(given))
    with counted() as calls:
        hooked(x)
        with torch.autocast("cpu"):
            nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU)(x)
        nn.PointwiseConv2d(5, 7, activation=torch.nn.SiLU(inplace=True))(x).sum().backward()
        nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU).double()(x.double())
        nn.PointwiseConv2d(5, 7, activation=torch.nn.Tanh)(x)
        nn.PointwiseConv2d(5, 7, norm=torch.nn.BatchNorm2d, activation=torch.nn.ReLU)(x)
    assert not calls
    assert len(seen) == 1
    with pytest.raises(ValueError, match="channels"):
        hooked(whole(2, 4, 4, 4).requires_grad_())


@pytest.mark.parametrize(
    "shape", [(2, 5, 7), (1, 1, 3, 3), (3, 40, 9, 8), (2, 3, 4, 5, 6), (0, 4, 3, 3), (1, 3, 300, 200)]
)
@pytest.mark.parametrize("inside", [False, True], ids=["in order", "channels last"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_way_back_equals_torch(shape, inside, dtype):
    def laid(tensor):
        return (tensor.movedim(1, -1).contiguous().movedim(-1, 1) if inside else tensor.contiguous()).to(dtype)

    numbers = 6 * torch.randn(shape)
    edges = torch.tensor([0.0, 6.0, -3.0, 3.0, -0.0, 50.0, -50.0, 200.0, -200.0])  # where slopes change or end
    numbers.view(-1)[: edges.numel()] = edges[: numbers.numel()]
    x, grad = laid(numbers), torch.randn(shape).to(dtype)
    functions = [(torch.relu, 1), (F.relu6, 2), (F.silu, 3), (F.gelu, 4), (partial(F.gelu, approximate="tanh"), 5)]
    for function, code in [*functions, (F.hardswish, 6)]:
        kept = function(x) if code <= 2 else x
        exact = x.double().requires_grad_()
        (want,) = torch.autograd.grad(function(exact), exact, grad.double())
        for totals in (False, True):
            found, sums = torch.ops.omniconv.activation_backward(grad, kept, code, totals)
            assert found.stride() == kept.stride() or found.numel() == 0
            assert_close(found, want)
            over = [axis for axis in range(x.dim()) if axis != 1]
            if totals:
                assert_close(sums, want.sum(over), terms=want.abs().sum(over))
            assert sums.shape == ((shape[1],) if totals else (0,))
