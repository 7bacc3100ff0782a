# SPDX-License-Identifier: Apache-2.0
"""Laws of what follows a convolution: one call equals the parts one by one, and only eager inference makes it."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.modules.module import register_module_forward_hook

from omniconv import nn
from omniconv.core.library import absent
from omniconv.core.native import Native
from omniconv.core.observe import listening
from tolerance import assert_close

POINTWISE = {d: getattr(nn, f"PointwiseConv{d}d") for d in (1, 2, 3)}
SEPARABLE = {d: getattr(nn, f"DepthwiseSeparableConv{d}d") for d in (1, 2, 3)}
NORMS = {d: getattr(torch.nn, f"BatchNorm{d}d") for d in (1, 2, 3)}
ACTIVATIONS = (
    None,
    torch.nn.Identity,
    torch.nn.ReLU,
    torch.nn.ReLU6,
    torch.nn.SiLU,
    torch.nn.GELU,
    torch.nn.GELU("tanh"),
    torch.nn.Hardswish,
    F.relu,
    torch.relu,
    F.relu6,
    F.silu,
    F.gelu,
    F.hardswish,
)
needs_library = pytest.mark.skipif(bool(absent()), reason=absent())


def settled(layer):
    """The layer in ``eval``, with statistics and factors of its norms that are not those of fresh ones."""
    with torch.no_grad():
        for module in layer.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                    if tensor is not None:
                        tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return layer.eval()


def one_by_one(layer, x, residual=None):
    """What the layer computes, in float64 and by its parts."""
    twin, wide = copy.deepcopy(layer).double(), None if residual is None else residual.double()
    with torch.no_grad():
        return twin(x.double(), wide)


@contextmanager
def counted(layer):
    """A list that grows by one with each call of everything at once."""
    calls, followed = [], layer._followed
    right = followed._call
    followed._call = lambda *arguments: calls.append(1) or right(*arguments)
    try:
        yield calls
    finally:
        followed._call = right


def laid(tensor, inside):
    """The tensor with channels innermost, or in order."""
    return tensor.transpose(1, -1).contiguous().transpose(1, -1) if inside else tensor.contiguous()


@st.composite
def blocks(draw):
    """A layer, an input, and a residual or None."""
    dim, separable = draw(st.integers(1, 3)), draw(st.booleans())
    norm, activation = st.sampled_from((None, NORMS[dim])), st.sampled_from(ACTIVATIONS)
    channels, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    numbers = {"stride": draw(st.integers(1, 3)), "bias": draw(st.booleans())}
    numbers |= {"norm": draw(norm), "activation": draw(activation)}
    if separable:
        numbers |= {"padding": draw(st.integers(0, 4)), "dilation": draw(st.integers(1, 2))}
        numbers |= {"multiplier": draw(st.integers(1, 3)), "depthwise_bias": draw(st.booleans())}
        numbers |= {"mid_norm": draw(norm), "mid_activation": draw(activation)}
        layer = SEPARABLE[dim](channels, outputs, draw(st.integers(1, 4)), **numbers)
    else:
        layer = POINTWISE[dim](channels, outputs, **numbers)
    sizes = tuple(draw(st.integers(1, 9)) for _ in range(dim))
    try:
        out = layer.problem.out_size_of(sizes)
    except ValueError:
        assume(condition=False)
    dtype, batch = draw(st.sampled_from((torch.float32, torch.bfloat16))), draw(st.integers(0, 3))
    inside, beside = draw(st.booleans()), draw(st.booleans())
    x = laid(torch.randn(batch, channels, *sizes), inside).to(dtype)
    residual = laid(torch.randn(batch, outputs, *out), beside).to(dtype) if draw(st.booleans()) else None
    return settled(layer).to(dtype), x, residual


@needs_library
@settings(max_examples=300)
@given(blocks())
def test_one_call_equals_the_parts(block):
    layer, x, residual = block
    alone = isinstance(layer, tuple(POINTWISE.values())) and residual is None
    with torch.no_grad(), counted(layer) as calls:
        for _ in range(3):  # weights are packed when they come again
            got = layer(x, residual)
            assert_close(got, one_by_one(layer, x, residual))
    plain = alone and layer.norm is None and layer.activation is None
    between = getattr(layer, "mid_norm", layer) is not None or getattr(layer, "mid_activation", layer) is not None
    left = between and not Native.takes(x, layer._followed._leaves)
    assert len(calls) == (0 if plain or left else 3)


@pytest.mark.parametrize("activation", ACTIVATIONS[2:8])
def test_without_a_batch(activation):
    for layer in (POINTWISE[2](5, 7, norm=NORMS[2], activation=activation), block()):
        x, residual = torch.randn(5, 4, 6), torch.randn(7, 4, 6)
        with torch.no_grad():
            if isinstance(layer.norm, torch.nn.BatchNorm2d):  # which takes no images without a batch
                with pytest.raises(ValueError, match="expected 4D input"):
                    layer(x, residual)
                layer.norm = None
            if getattr(layer, "mid_norm", None) is not None:
                layer.mid_norm = None
            assert_close(layer(x, residual), one_by_one(layer, x, residual))


def block(**changes):
    """A separable layer of 5 channels in, 7 out, with everything in it."""
    given = {"mid_norm": NORMS[2], "mid_activation": torch.nn.ReLU6, "norm": NORMS[2], "activation": torch.nn.SiLU}
    return settled(SEPARABLE[2](5, 7, 3, padding=1, **(given | changes)))


def pointwise(**changes):
    """A pointwise layer of 5 channels in, 7 out, with everything in it."""
    return settled(POINTWISE[2](5, 7, **({"norm": NORMS[2], "activation": torch.nn.SiLU} | changes)))


@dataclass
class Scaled:
    """A function that is like none of torch's, and equals others, so that it has no hash."""

    factor: float

    def __call__(self, tensor):
        return tensor * self.factor


class OwnNorm(torch.nn.BatchNorm2d):
    """A batch norm that may compute anything."""


@contextmanager
def everywhere():
    """A hook of every module's calls."""
    handle = register_module_forward_hook(lambda *_: None)
    yield
    handle.remove()


def hooked(layer, name, kind):
    getattr(getattr(layer, name), f"register_{kind}")(lambda *_: None)
    return layer


CALLED_AT_ONCE = {
    "everything": (block, torch.no_grad),
    "pointwise": (pointwise, torch.no_grad),
    "inference mode": (block, torch.inference_mode),
    "frozen weights": (lambda: pointwise().requires_grad_(requires_grad=False), nullcontext),
    "a hook of the layer": (
        lambda: hooked(torch.nn.ModuleDict({"it": pointwise()}), "it", "forward_hook")["it"],
        torch.no_grad,
    ),
}
BY_PARTS = {
    "gradients": (block, nullcontext),
    "pointwise gradients": (pointwise, nullcontext),
    "autocast": (block, lambda: torch.autocast("cpu", torch.bfloat16)),
    "a listener": (block, lambda: listening(lambda _problem, _tensors, run: run())),
    "a hook of every module": (block, everywhere),
    **{
        f"a {kind} of {name}": (lambda make=make, name=name, kind=kind: hooked(make(), name, kind), torch.no_grad)
        for make, name in ((block, "mid_norm"), (block, "mid_activation"), (block, "norm"), (pointwise, "activation"))
        for kind in ("forward_hook", "forward_pre_hook")
    },
    "another norm": (lambda: pointwise(norm=torch.nn.GroupNorm(1, 7)), torch.no_grad),
    "a norm of a class of its own": (lambda: block(mid_norm=OwnNorm(5)), torch.no_grad),
    "a norm without statistics": (
        lambda: block(norm=torch.nn.BatchNorm2d(7, track_running_stats=False)),
        torch.no_grad,
    ),
    "a norm without factors": (lambda: block(norm=torch.nn.BatchNorm2d(7, affine=False)), torch.no_grad),
    "another activation": (lambda: block(activation=torch.nn.Tanh), torch.no_grad),
    "a function of one's own": (lambda: pointwise(activation=lambda x: 2 * x), torch.no_grad),
    "a function without a hash": (lambda: pointwise(activation=Scaled(3.0)), torch.no_grad),
    "such a function between": (lambda: block(mid_activation=Scaled(3.0)), torch.no_grad),
}


def check_calls(make, context, count):
    layer, x, residual = make(), torch.randn(2, 5, 6, 6), torch.randn(2, 7, 6, 6)
    want = one_by_one(layer, x, residual)
    with counted(layer) as calls:
        for _ in range(3):
            with context():
                got = layer(x, residual)
            assert_close(got, want, dtype=torch.bfloat16 if "autocast" in repr(context()) else None)
    assert len(calls) == count


@needs_library
@pytest.mark.parametrize("name", CALLED_AT_ONCE)
def test_at_once(name):
    check_calls(*CALLED_AT_ONCE[name], 3)


@needs_library
@pytest.mark.parametrize("name", BY_PARTS)
def test_by_parts(name):
    make, context = BY_PARTS[name]
    check_calls(make, context, 0)


@needs_library
@pytest.mark.parametrize("make", [block, pointwise])
def test_float64_and_transforms_go_by_parts(make):
    layer, x = make(), torch.randn(3, 2, 5, 6, 6)
    with torch.no_grad(), counted(layer) as calls:
        each = [one_by_one(layer, image) for image in x]
        assert_close(torch.func.vmap(layer)(x), torch.stack(each))
        value, tangent = torch.func.jvp(layer, (x[0],), (torch.ones_like(x[0]),))
        assert_close(value, each[0])
        assert tangent.shape == value.shape
    gradient = torch.func.grad(lambda image: layer(image).sum())(x[0])
    assert gradient.shape == x[0].shape
    assert not calls


@needs_library
@pytest.mark.parametrize("make", [block, pointwise])
def test_compiled_and_exported(make):
    torch._dynamo.reset()
    layer, x, residual = make(), torch.randn(2, 5, 6, 6), torch.randn(2, 7, 6, 6)
    want = one_by_one(layer, x, residual)
    with torch.no_grad(), counted(layer) as calls:
        assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x, residual), want)
        program = torch.export.export(layer, (x, residual))
        assert_close(program.module()(x, residual), want)
    assert not calls
    assert not [node for node in program.graph.nodes if "omniconv" in str(node.target)]


def test_without_the_library():
    program = (
        "import torch; from omniconv import nn;"
        "x, r = torch.randn(2, 5, 6, 6), torch.randn(2, 7, 6, 6);"
        "layers = nn.PointwiseConv2d(5, 7, norm=torch.nn.BatchNorm2d, activation=torch.nn.GELU),"
        "nn.DepthwiseSeparableConv2d(5, 7, 3, padding=1, activation=torch.nn.ReLU), nn.Linear(6, 6);"
        "[torch.no_grad().__enter__()];"
        "assert all(layer._followed is None for layer in layers);"
        "print([tuple(layer.eval()(x, *([r] if i < 2 else [])).shape) for i, layer in enumerate(layers)])"
    )
    environment = {**os.environ, "OMNICONV_NATIVE": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[(2, 7, 6, 6), (2, 7, 6, 6), (2, 5, 6, 6)]"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [block, pointwise])
def test_gradients(make, training):
    layer, x, residual = make(bias=False).train(training), torch.randn(4, 5, 6, 6), torch.randn(4, 7, 6, 6)
    twin, leaves = copy.deepcopy(layer).double(), (x.requires_grad_(), residual.requires_grad_())
    wide = tuple(leaf.detach().double().requires_grad_() for leaf in leaves)
    grad = torch.randn(4, 7, 6, 6)
    output, want = layer(*leaves), twin(*wide)
    output.backward(grad)
    want.backward(grad.double())
    assert_close(output, want)
    for one, other in zip((*leaves, *layer.parameters()), (*wide, *twin.parameters()), strict=True):
        assert_close(one.grad, other.grad)


@pytest.mark.parametrize("make", [block, pointwise])
def test_after_a_step_of_training_come_the_new_numbers(make):
    layer, x, residual = make(), torch.randn(4, 5, 6, 6), torch.randn(4, 7, 6, 6)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    for _ in range(3):
        with torch.no_grad():
            for _ in range(2):
                assert_close(layer.eval()(x, residual), one_by_one(layer, x, residual))
        optimizer.zero_grad()
        layer.train()(x, residual).square().mean().backward()
        optimizer.step()
    layer.train()(x, residual)  # statistics alone
    assert_close(layer.eval()(x, residual), one_by_one(layer, x, residual))


@needs_library
@pytest.mark.parametrize("make", [block, pointwise])
def test_copies_are_themselves(make):
    layer, x = make(), torch.randn(2, 5, 6, 6)
    with torch.no_grad():
        before = [layer(x) for _ in range(3)][-1]
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):  # noqa: S301
            for parameter in twin.parameters():
                parameter.mul_(2)
            with counted(twin) as calls:
                for _ in range(3):
                    assert_close(twin(x), one_by_one(twin, x))
            assert len(calls) == 3
        assert torch.equal(layer(x), before)


@pytest.mark.parametrize("make", [block, pointwise])
def test_a_wrong_residual_is_named_before_anything_is_computed(make):
    layer, x = make().train(), torch.randn(2, 5, 6, 6)
    for residual in (torch.randn(2, 7, 1, 1), torch.randn(7, 6, 6), torch.randn(2, 7, 6, 5), torch.randn(3, 7, 6, 6)):
        with pytest.raises(ValueError, match=r"`residual` shape \(=.*must be that of the output, \(2, 7, 6, 6\)"):
            layer(x, residual)
    with pytest.raises(TypeError, match=r"`residual` \(=float\) must be a torch.Tensor"):
        layer(x, 1.0)
    assert layer.norm.num_batches_tracked == 0


def test_a_residual_of_another_type_is_added_as_torch_adds():
    for make in (block, pointwise):
        layer, x, residual = make(), torch.randn(2, 5, 6, 6), torch.randn(2, 7, 6, 6).bfloat16()
        with torch.no_grad():
            assert_close(layer(x, residual), one_by_one(layer, x, residual))


def test_what_is_no_norm_or_activation_is_named():
    for maker in (lambda **a: POINTWISE[2](5, 7, **a), lambda **a: SEPARABLE[2](5, 7, 3, **a)):
        with pytest.raises(TypeError, match=r"`activation` \(='relu'\) must be a module, its class, or a function"):
            maker(activation="relu")
        with pytest.raises(TypeError, match=r"`norm` \(=3\) must be a module, or make one"):
            maker(norm=3)


@pytest.mark.parametrize("make", [block, pointwise])
def test_a_norm_of_another_number_of_axes_or_channels_is_refused_in_either_mode(make):
    for norm in (torch.nn.BatchNorm1d(7), torch.nn.BatchNorm3d(7), torch.nn.BatchNorm2d(8)):
        layer = make(norm=norm)
        for _ in range(3):
            with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
                layer(torch.randn(2, 5, 6, 6))


@needs_library
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "problem", [(3, 5, 7, 70), (1, 64, 96, 28), (2, 200, 50, 14), (1, 130, 130, 33), (5, 17, 400, 9)]
)
def test_any_number_of_threads_gives_the_same_bits(problem, dtype, inside):
    batch, ins, outs, size = problem
    parts = {"mid_norm": NORMS[2], "mid_activation": torch.nn.ReLU6, "norm": NORMS[2], "activation": torch.nn.SiLU}
    layer = settled(SEPARABLE[2](ins, outs, 3, padding=1, **parts)).to(dtype)
    x, residual = (laid(torch.randn(batch, c, size, size), inside).to(dtype) for c in (ins, outs))
    found = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        with torch.no_grad():
            found += [layer(x, residual) for _ in range(3)]
    torch.set_num_threads(1)
    assert all(torch.equal(one, found[0]) for one in found)
    assert_close(found[0], one_by_one(layer, x, residual))
