# SPDX-License-Identifier: Apache-2.0
"""The linear layer is torch's, with what follows it."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from omniconv import nn
from omniconv.core.library import absent
from omniconv.ops.conv import linear
from omniconv.ops.conv.linear import LEAST_RECORDED
from tolerance import assert_close

SHAPES = ((12,), (1, 12), (7, 12), (0, 12), (2, 0, 12), (2, 3, 4, 12), (2, 70, 12), (1, 1, 1, 1, 12))
needs_library = pytest.mark.skipif(bool(absent()), reason=absent())


def twins(bias=True, dtype=torch.float32):
    """A layer, and torch's with the same parameters."""
    layer, right = nn.Linear(12, 20, bias, dtype=dtype), torch.nn.Linear(12, 20, bias, dtype=dtype)
    right.load_state_dict(layer.state_dict())
    return layer, right


def inputs(shape, dtype=torch.float32):
    """Tensors of a shape that lie in different ways."""
    x = torch.randn(shape).to(dtype)
    yield x
    yield torch.randn(*shape[:-1], 24).to(dtype)[..., ::2]
    yield x.mT.contiguous().mT if x.dim() > 1 else x.clone()
    yield x.transpose(0, -2).contiguous().transpose(0, -2) if x.dim() > 2 else x[..., :1].expand(shape)
    yield x[:1].expand(shape) if x.numel() else x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_torchs(shape, bias, dtype):
    layer, right = twins(bias, dtype)
    wide = copy.deepcopy(right).double()
    for x in inputs(shape, dtype):
        with torch.no_grad():
            for _ in range(3):
                got = layer(x)
                assert got.dtype == dtype
                assert_close(got, wide(x.double()))
                assert got.is_contiguous() == right(x).is_contiguous()
        assert_close(layer(x), wide(x.double()))


def test_is_torchs():
    layer, right = twins()
    assert isinstance(layer, torch.nn.Linear)
    assert list(layer.state_dict()) == list(right.state_dict())
    ours, theirs = (list(inspect.signature(kind).parameters) for kind in (nn.Linear, torch.nn.Linear))
    assert ours[: len(theirs)] == theirs
    torch.manual_seed(3)
    drawn = nn.Linear(12, 20)
    torch.manual_seed(3)
    assert torch.equal(drawn.weight, torch.nn.Linear(12, 20).weight)


@pytest.mark.parametrize("sizes", [(0, 4), (4, 0)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_no_features(sizes):
    layer = nn.Linear(*sizes)
    with torch.no_grad():
        assert_close(layer(torch.randn(3, sizes[0])), F.linear(torch.randn(3, sizes[0]), layer.weight, layer.bias))


@pytest.mark.parametrize("activation", [None, torch.nn.ReLU, torch.nn.GELU, F.silu, torch.nn.Tanh])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_follows_equals_the_parts(shape, added, activation):
    layer, x = nn.Linear(12, 20, activation=activation), torch.randn(shape)
    residual = torch.randn(*shape[:-1], 20) if added else None
    wide, wide_residual = copy.deepcopy(layer).double(), None if residual is None else residual.double()
    want = wide(x.double(), wide_residual)
    with torch.no_grad():
        for _ in range(3):
            assert_close(layer(x, residual), want)
    assert_close(layer(x, residual), want)


@needs_library
def test_inference_is_one_call_and_training_is_not(monkeypatch):
    layer, x, calls = nn.Linear(12, 20, activation=torch.nn.GELU), torch.randn(5, 12), []
    right = layer._followed._call
    monkeypatch.setattr(layer._followed, "_call", lambda *arguments: calls.append(1) or right(*arguments))
    layer(x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert layer(x).dtype == torch.bfloat16
    assert not calls
    with torch.no_grad():
        layer(x)
    assert len(calls) == 1


def test_gradients():
    layer, x, residual = nn.Linear(12, 20, activation=torch.nn.GELU), torch.randn(3, 7, 12), torch.randn(3, 7, 20)
    twin, leaves = copy.deepcopy(layer).double(), (x.requires_grad_(), residual.requires_grad_())
    wide = tuple(leaf.detach().double().requires_grad_() for leaf in leaves)
    grad = torch.randn(3, 7, 20)
    layer(*leaves).backward(grad)
    twin(*wide).backward(grad.double())
    for one, other in zip((*leaves, *layer.parameters()), (*wide, *twin.parameters()), strict=True):
        assert_close(one.grad, other.grad)


def recorded(rows=320, sizes=(640, 700), bias=True, **how):
    """A layer whose step with gradients is one, an input of so many rows, and how often that step was taken."""
    layer, x = nn.Linear(*sizes, bias, **how), torch.randn(2, rows // 2, sizes[0], requires_grad=True)
    assert x.numel() * sizes[1] >= LEAST_RECORDED
    return layer, x


@pytest.fixture
def steps(monkeypatch):
    """One more element for each step that is recorded as one."""
    taken, right = [], linear._Recorded.apply
    monkeypatch.setattr(linear._Recorded, "apply", lambda *given: taken.append(1) or right(*given))
    return taken


NEEDED = [*((True, name) for name in ("all", "input", "weight", "bias")), (False, "all"), (False, "weight")]
FUNCTIONS = [None, torch.nn.ReLU(), F.relu6, F.silu, torch.nn.GELU(), torch.nn.GELU("tanh"), torch.nn.Hardswish()]


@needs_library
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(("bias", "needed"), NEEDED)
@pytest.mark.parametrize("activation", FUNCTIONS)
def test_gradients_of_one_step(activation, bias, added, needed, steps):
    layer, x = recorded(bias=bias, activation=activation)
    residual = torch.randn(2, 160, 700, requires_grad=True) if added else None
    every = {"input": x, "weight": layer.weight, "bias": layer.bias, "residual": residual}
    every = {name: tensor for name, tensor in every.items() if tensor is not None}
    for name, tensor in every.items():
        tensor.requires_grad_(needed in ("all", name))
    twin = copy.deepcopy(layer).double()
    wide = x.detach().double().requires_grad_(x.requires_grad)
    wide_residual = residual.detach().double().requires_grad_(residual.requires_grad) if added else None
    grad = torch.randn(2, 160, 1400)[..., ::2]
    output, want = layer(x, residual), twin(wide, wide_residual)
    assert len(steps) == (not added or activation in FUNCTIONS[:3])
    assert_close(output, want)
    output.backward(grad)
    want.backward(grad.double())
    found = (x, residual, *layer.parameters())
    for one, other in zip(found, (wide, wide_residual, *twin.parameters()), strict=True):
        assert (one is None or one.grad is None) == (other is None or other.grad is None)
        if one is not None and one.grad is not None:
            assert_close(one.grad, other.grad)


@needs_library
@pytest.mark.parametrize("needed", ["all", "input", "weight", "bias"])
@pytest.mark.parametrize("activation", [None, torch.nn.GELU()])
def test_gradients_of_many_rows(activation, needed, steps, monkeypatch):
    """Whose products on the way back are the library's too."""
    own, right = [], linear._own_products
    monkeypatch.setattr(linear, "_own_products", lambda *given: own.append(1) or right(*given))
    layer, x = recorded(linear.LEAST_OWN_ROWS + 2, (84, 100), activation=activation)
    for name, tensor in (("input", x), ("weight", layer.weight), ("bias", layer.bias)):
        tensor.requires_grad_(needed in ("all", name))
    twin, wide = copy.deepcopy(layer).double(), x.detach().double().requires_grad_(x.requires_grad)
    grad = torch.randn(2, len(x[0]), 100)
    layer(x).backward(grad)
    twin(wide).backward(grad.double())
    assert len(steps) == len(own) == 1
    for one, other in zip((x, *layer.parameters()), (wide, *twin.parameters()), strict=True):
        assert (one.grad is None) == (other.grad is None) == (not one.requires_grad)
        if one.grad is not None:
            torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-3)


@needs_library
def test_what_is_small_or_of_another_type_is_torchs(steps):
    layer, x = recorded()
    layer(x[:, :100])
    layer.double()(x.double())
    layer.bfloat16()(x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.float()(x).dtype == torch.bfloat16
    assert not steps
    layer(x)
    assert len(steps) == 1


@needs_library
@pytest.mark.parametrize("activation", [None, torch.nn.ReLU(), torch.nn.GELU()])
def test_gradients_of_gradients(activation, steps):
    layer, x = recorded(activation=activation)
    twin, wide = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    found = []
    for net, input in ((layer, x), (twin, wide)):
        (first,) = torch.autograd.grad(net(input).square().mean(), input, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), (input, net.weight)))
    assert len(steps) == 1
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


@needs_library
def test_what_looks_on(steps):
    """In-place steps behind it, checkpoints, transforms, hooks, and a bias that changes before the way back."""
    layer, x = recorded(activation=torch.nn.ReLU())
    wide, twin = x.detach().double().requires_grad_(), copy.deepcopy(layer).double()
    (want,) = torch.autograd.grad(F.relu(F.linear(wide, twin.weight, twin.bias)).sigmoid().sum(), wide)
    assert_close(torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sigmoid().sum(), x)[0], want)
    assert len(steps) == 2
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        layer(x).sigmoid_().sum().backward()
    plain, _ = recorded()
    plain.load_state_dict(layer.state_dict())
    assert_close(torch.autograd.grad(F.relu_(plain(x)).sigmoid().sum(), x)[0], want)
    assert len(steps) == 4
    output = layer(x)
    with torch.no_grad():
        layer.bias.add_(1)
    output.sigmoid().sum().backward()
    assert_close(x.grad, want)
    seen = []
    layer.activation.register_forward_hook(lambda *given: seen.append(given[2]))
    layer(x)
    assert len(seen) == 1
    taken = len(steps)
    parameters = dict(layer.named_parameters())
    torch.func.grad(lambda p: torch.func.functional_call(layer, p, (x,)).sum())(parameters)
    assert len(steps) == taken


def test_compiled_exported_and_copied():
    torch._dynamo.reset()
    layer, x = nn.Linear(12, 20, activation=torch.nn.GELU), torch.randn(3, 12)
    want = layer(x)
    with torch.no_grad():
        for _ in range(3):
            layer(x)
        assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), want)
        program = torch.export.export(layer, (x,))
        assert_close(program.module()(x), want)
        assert not [node for node in program.graph.nodes if "omniconv" in str(node.target)]
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
            assert_close(twin(x), want)


def test_wrong_arguments_are_named():
    layer = nn.Linear(12, 20)
    with pytest.raises(ValueError, match=r"`residual` shape \(=\(20,\)\) must be that of the output, \(3, 20\)"):
        layer(torch.randn(3, 12), torch.randn(20))
    with pytest.raises(TypeError, match=r"`residual` \(=int\) must be a torch.Tensor"):
        layer(torch.randn(3, 12), 1)
    with pytest.raises(TypeError, match=r"`activation` \(='gelu'\) must be a module"):
        nn.Linear(12, 20, activation="gelu")
    with torch.no_grad(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.randn(3, 11))
