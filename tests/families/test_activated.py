# SPDX-License-Identifier: Apache-2.0
"""A convolution and its activation, recorded together: gradients, and gradients of these, are those of the parts."""

from __future__ import annotations

import copy
from contextlib import contextmanager, nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from omniconv import nn
from omniconv.core import activated
from omniconv.core.library import absent
from tolerance import assert_close, assert_equal

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())
DTYPES = (torch.float32, torch.bfloat16)
KINKED = (torch.nn.ReLU, torch.nn.ReLU6, F.relu, F.relu6, torch.relu)
SMOOTH = (torch.nn.SiLU, torch.nn.GELU, partial(torch.nn.GELU, "tanh"), torch.nn.Hardswish, F.silu, F.gelu)


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


KINDS = {"pointwise": (pointwise, 1), "separable": (separable, 2)}


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


def registered(name):
    """A layer whose activation has a hook of the kind, and what it was called with."""
    layer, seen = nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU), []
    getattr(layer.activation, f"register_{name}")(lambda *given: seen.append(given))
    return layer, seen


@pytest.mark.parametrize("name", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_are_called(name):
    layer, seen = registered(name)
    with counted() as calls:
        layer(whole(2, 5, 4, 4).requires_grad_()).sum().backward()
    assert not calls
    assert len(seen) == 1
    seen.clear()
    with torch.nn.modules.module.register_module_full_backward_hook(lambda module, *_: seen.append(type(module))):
        nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU)(whole(2, 5, 4, 4).requires_grad_()).sum().backward()
    assert torch.nn.ReLU in seen


def test_the_parts_of_what_is_not_recorded_together():
    x = whole(2, 5, 4, 4).requires_grad_()
    residual = whole(2, 7, 4, 4)
    with counted() as calls:
        with torch.autocast("cpu"):
            nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU)(x)
        nn.PointwiseConv2d(5, 7, activation=torch.nn.SiLU(inplace=True))(x).sum().backward()
        nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU).double()(x.double())
        nn.PointwiseConv2d(5, 7, activation=torch.nn.Tanh)(x)
        nn.PointwiseConv2d(5, 7, norm=torch.nn.BatchNorm2d, activation=torch.nn.ReLU)(x)
        nn.PointwiseConv2d(5, 7, activation=torch.nn.SiLU)(x, residual)
        nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU)(x, residual.to_sparse())
    assert not calls


def test_errors_name_what_is_wrong():
    layer, block = nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU), separable(2, torch.nn.ReLU)
    with pytest.raises(ValueError, match="channels"):
        layer(whole(2, 4, 4, 4).requires_grad_())
    with pytest.raises(ValueError, match="must be at least 1"):
        layer(whole(2, 5, 0, 4).requires_grad_())
    with pytest.raises(ValueError, match="`residual` shape"):
        layer(whole(2, 5, 4, 4).requires_grad_(), whole(2, 7, 3, 3))
    with pytest.raises(ValueError, match="use 3 or more"):
        nn.DepthwiseSeparableConv2d(5, 7, 3, mid_activation=torch.nn.ReLU)(whole(2, 5, 2, 2).requires_grad_())
    for own, name in ((layer, "weight"), (block, "depthwise_weight")):
        for shape in ((7, 6, 1, 1), (3,)):
            setattr(own, name, torch.nn.Parameter(whole(*shape)))
            with pytest.raises(ValueError, match="`weight` shape"):
                own(whole(2, 5, 4, 4).requires_grad_())


def test_a_bias_may_change_before_the_way_back():
    layer, x = nn.PointwiseConv2d(5, 7, activation=torch.nn.ReLU), whole(2, 5, 4, 4).requires_grad_()
    output = layer(x)
    with torch.no_grad():
        layer.bias.add_(1)
    output.sum().backward()
    assert_equal(layer.bias.grad, (output > 0).float().sum((0, 2, 3)))


class Watching(TorchDispatchMode):
    """A mode that sees operators run, and keeps what they return."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        tensors = found if isinstance(found, tuple) else (found,)
        self.kept += [(t, t.clone()) for t in tensors if isinstance(t, torch.Tensor)]
        return found


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.SiLU])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_whoever_watches(kind, activation):
    """A mode on one of the two passes must not change what the other one keeps, nor find its tensors changed."""
    layer, x = KINDS[kind][0](2, activation), torch.randn(2, 5, 9, 9, requires_grad=True)
    want = torch.autograd.grad(layer(x).sum(), x)
    for modes in ((nullcontext(), Watching()), (Watching(), nullcontext())):
        with counted() as calls, modes[0]:
            output = checkpoint(layer, x, use_reentrant=False)
        assert len(calls) == KINDS[kind][1]
        with modes[1]:
            assert_close(torch.autograd.grad(output.sum(), x)[0], want[0].double())
        for tensor, copy_of in next(mode for mode in modes if isinstance(mode, Watching)).kept:
            assert_equal(tensor, copy_of)


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
