# SPDX-License-Identifier: Apache-2.0
"""Laws of the inverted residual: one call equals its parts, and only eager inference makes it."""

from __future__ import annotations

import copy
import pickle
from contextlib import contextmanager, nullcontext

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from families.test_followed import ACTIVATIONS, NORMS, OwnNorm, Scaled, laid, settled
from omniconv import nn
from omniconv.core.library import absent
from omniconv.core.native import Native
from omniconv.core.observe import listening
from tolerance import assert_close

BLOCKS = {d: getattr(nn, f"InvertedResidual{d}d") for d in (1, 2, 3)}
needs_library = pytest.mark.skipif(bool(absent()), reason=absent())


def one_by_one(block, x):
    """What the block computes, in float64 and by its parts."""
    twin = copy.deepcopy(block).double()
    with torch.no_grad():
        expanded = x.double() if twin.expansion is None else twin.expansion(x.double())
        output = twin.separable(expanded)
        return output + x.double() if twin.residual else output


@contextmanager
def counted(block):
    """A list that grows by one with each call of everything at once."""
    calls, inverted = [], block._at_once()
    if inverted is None:
        yield calls
        return
    right = inverted._call
    inverted._call = lambda *arguments: calls.append(1) or right(*arguments)
    try:
        yield calls
    finally:
        inverted._call = right


@st.composite
def cases(draw):
    """A block and an input."""
    dim = draw(st.integers(1, 3))
    channels, outputs, stride = draw(st.integers(1, 20)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    padding = "same" if stride == 1 and draw(st.booleans()) else draw(st.integers(0, 4))
    if padding == "same" and draw(st.booleans()):
        outputs = channels
    numbers = {
        "bias": draw(st.booleans()),
        "expansion": draw(st.sampled_from((0.6, 2, 3.5, 6))),
        "norm": draw(st.sampled_from((None, NORMS[dim]))),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "residual": None if padding == "same" else False,
    }
    size = tuple(draw(st.integers(1, {1: 90, 2: 20, 3: 7}[dim])) for _ in range(dim))
    try:
        block = BLOCKS[dim](channels, outputs, kernel, stride, padding, dilation, **numbers)
        block.separable.problem.out_size_of(size)
    except ValueError:
        assume(condition=False)
    dtype = draw(st.sampled_from((torch.float32, torch.bfloat16)))
    x = laid(torch.randn(draw(st.integers(0, 3)), channels, *size), draw(st.booleans())).to(dtype)
    return settled(block).to(dtype), x


@needs_library
@settings(max_examples=300)
@given(cases())
def test_one_call_equals_the_parts(case):
    block, x = case
    with torch.no_grad(), counted(block) as calls:
        for _ in range(3):  # weights are packed when they come again
            got = block(x)
            assert_close(got, one_by_one(block, x))
    assert len(calls) == (3 if Native.takes(x, block._at_once().block._leaves) else 0)


@needs_library
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("channels", "outputs", "size", "stride", "expansion"),
    [(16, 24, 56, 2, 6), (24, 24, 40, 1, 6), (64, 64, 14, 1, 6), (160, 160, 7, 1, 4), (40, 40, 37, 1, 3)],
)
def test_blocks_of_networks_equal_the_parts_for_any_number_of_threads(
    channels, outputs, size, stride, expansion, inside
):
    numbers = {"padding": 2, "expansion": expansion, "norm": NORMS[2], "activation": torch.nn.ReLU6}
    block = settled(BLOCKS[2](channels, outputs, 5, stride, **numbers))
    x, before, outputs = laid(torch.randn(2, channels, size, size), inside), torch.get_num_threads(), []
    try:
        with torch.no_grad():
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                outputs.append(block(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])
    assert_close(outputs[0], one_by_one(block, x))


def block(**changes):
    """A block of 5 channels in and out, with everything in it."""
    given = {"padding": 1, "norm": NORMS[2], "activation": torch.nn.ReLU6, "expansion": 3}
    return settled(BLOCKS[2](5, 5, 3, **(given | changes)))


class Own(nn.DepthwiseSeparableConv2d):
    """A block that may compute anything."""


def changed(name, part):
    made = block()
    owner, _, last = name.rpartition(".")
    setattr(made.get_submodule(owner), last, part)
    return made.eval()


def hooked(name, kind):
    made = block()
    getattr(made.get_submodule(name), f"register_{kind}")(lambda *_: None)
    return made


CALLED_AT_ONCE = {
    "everything": (block, torch.no_grad),
    "inference mode": (block, torch.inference_mode),
    "frozen weights": (lambda: block().requires_grad_(requires_grad=False), nullcontext),
    "no norms": (lambda: block(norm=None), torch.no_grad),
}
PARTS = (
    "expansion",
    "expansion.norm",
    "expansion.activation",
    "separable",
    "separable.mid_norm",
    "separable.mid_activation",
    "separable.norm",
)
BY_PARTS = {
    "gradients": (block, nullcontext),
    "autocast": (block, lambda: torch.autocast("cpu", torch.bfloat16)),
    "a listener": (block, lambda: listening(lambda _problem, _tensors, run: run())),
    "training": (lambda: block().train(), torch.no_grad),
    **{
        f"a {kind} of {name}": (lambda name=name, kind=kind: hooked(name, kind), torch.no_grad)
        for name in PARTS
        for kind in ("forward_hook", "forward_pre_hook")
    },
    "another norm": (lambda: changed("expansion.norm", torch.nn.GroupNorm(1, 15)), torch.no_grad),
    "a norm of a class of its own": (lambda: changed("expansion.norm", OwnNorm(15)), torch.no_grad),
    "another norm behind": (lambda: changed("separable.norm", torch.nn.GroupNorm(1, 5)), torch.no_grad),
    "another expansion": (lambda: changed("expansion", torch.nn.Conv2d(5, 15, 1)), torch.no_grad),
    "an expansion in groups": (lambda: changed("expansion", nn.PointwiseConv2d(5, 15, groups=5)), torch.no_grad),
    "a block of another class": (lambda: changed("separable", Own(15, 5, 3, padding=1)), torch.no_grad),
    "another activation": (lambda: block(activation=torch.nn.Tanh), torch.no_grad),
    "a function without a hash": (lambda: block(activation=Scaled(3.0)), torch.no_grad),
}


@needs_library
@pytest.mark.parametrize(("name", "count"), [*((n, 3) for n in CALLED_AT_ONCE), *((n, 0) for n in BY_PARTS)])
def test_who_calls_at_once(name, count):
    make, context = (CALLED_AT_ONCE | BY_PARTS)[name]
    made, x = make(), torch.randn(2, 5, 6, 6)
    with counted(made) as calls:
        for _ in range(3):
            with context():
                got = made(x)
            if not made.training:
                dtype = torch.bfloat16 if name == "autocast" else None
                assert_close(got, one_by_one(made, x), dtype=dtype)
    assert len(calls) == count


def test_gradients():
    made, x = block(bias=False).train(), torch.randn(4, 5, 6, 6, requires_grad=True)
    twin, wide = copy.deepcopy(made).double(), x.detach().double().requires_grad_()
    grad = torch.randn(4, 5, 6, 6)
    output = made(x)
    want = twin.separable(twin.expansion(wide)) + wide
    output.backward(grad)
    want.backward(grad.double())
    assert_close(output, want)
    for one, other in zip((x, *made.parameters()), (wide, *twin.parameters()), strict=True):
        assert_close(one.grad, other.grad)


@needs_library
def test_changed_weights_are_seen():
    made, x = block(), torch.randn(2, 5, 6, 6)
    with torch.no_grad():
        for _ in range(3):
            made(x)
        for parameter in made.parameters():
            parameter.mul_(-1.5)
        for _ in range(3):
            assert_close(made(x), one_by_one(made, x))


@needs_library
def test_a_part_that_was_replaced_is_the_one_that_is_called():
    made, x = block(residual=False), torch.randn(2, 5, 9, 9)
    with torch.no_grad():
        made(x)
        made.separable = nn.DepthwiseSeparableConv2d(15, 7, 5, 2, padding=2)
        with counted(made) as calls:
            assert_close(made(x), one_by_one(made, x))
        assert calls


@needs_library
def test_copies_and_pickles_call_at_once():
    made, x = block(), torch.randn(2, 5, 6, 6)
    for twin in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):  # noqa: S301  # our own
        with torch.no_grad(), counted(twin) as calls:
            assert_close(twin(x), one_by_one(made, x))
        assert calls


@needs_library
def test_compiled_and_exported():
    torch._dynamo.reset()
    made, x = block(), torch.randn(2, 5, 6, 6)
    with torch.no_grad(), counted(made) as calls:
        assert_close(torch.compile(made, backend="aot_eager", fullgraph=True)(x), one_by_one(made, x))
        program = torch.export.export(made, (x,))
        assert_close(program.module()(x), one_by_one(made, x))
    assert not calls


def test_without_a_batch():
    made, x = block(norm=None), torch.randn(5, 6, 7)
    with torch.no_grad():
        assert_close(made(x), one_by_one(made, x))


@needs_library
def test_large_volumes_whose_boxes_reach_most_of_each_other_take_the_parts():
    made = nn.InvertedResidual3d(4, 4, 3, padding=1, expansion=40, activation=torch.nn.ReLU).eval()
    for size, count in (((3, 6, 6), 1), ((3, 94, 94), 0)):
        x = torch.randn(1, 4, *size)
        with torch.no_grad(), counted(made) as calls:
            assert_close(made(x), one_by_one(made, x))
        assert len(calls) == count


def test_what_three_convolutions_of_torch_compute():
    """MobileNetV2's block in torch's own layers, of the same parameters."""
    made = block(bias=False, expansion=6)
    convs = [torch.nn.Conv2d(5, 30, 1, bias=False), torch.nn.Conv2d(30, 30, 3, padding=1, groups=30, bias=False)]
    convs += [torch.nn.Conv2d(30, 5, 1, bias=False)]
    norms = [torch.nn.BatchNorm2d(30), torch.nn.BatchNorm2d(30), torch.nn.BatchNorm2d(5)]
    steps = [
        step for pair in zip(convs, norms, [torch.nn.ReLU6(), torch.nn.ReLU6(), None], strict=True) for step in pair
    ]
    theirs = settled(torch.nn.Sequential(*(step for step in steps if step is not None)))
    own = made.state_dict()
    order = [
        *(f"expansion.{name}" for name in ("weight", *(f"norm.{n}" for n in NORM))),
        *(f"separable.{name}" for name in ("depthwise_weight", *(f"mid_norm.{n}" for n in NORM))),
        *(f"separable.{name}" for name in ("pointwise_weight", *(f"norm.{n}" for n in NORM))),
    ]
    made.load_state_dict(dict(zip(order, theirs.state_dict().values(), strict=True)))
    assert sorted(order) == sorted(own)
    x = torch.randn(2, 5, 9, 8)
    with torch.no_grad():
        assert_close(made(x), x.double() + copy.deepcopy(theirs).double()(x.double()))


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def test_numbers():
    assert nn.InvertedResidual2d(16, 24, 3).separable.in_channels == 96
    assert nn.InvertedResidual2d(16, 24, 3, expansion=1).expansion is None
    assert nn.InvertedResidual1d(10, 4, 3, expansion=2.25).separable.in_channels == 22
    assert not nn.InvertedResidual2d(16, 24, 3).residual
    assert not nn.InvertedResidual2d(16, 16, 3, 2, 1).residual
    assert nn.InvertedResidual2d(16, 16, 3, padding=1).residual
    assert not nn.InvertedResidual2d(16, 16, 3, padding=1, residual=False).residual
    assert "residual=True" in repr(nn.InvertedResidual3d(4, 4, 3, padding="same"))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((4, 5, 3, 1, 1, {"residual": True}), ValueError, r"`out_channels` \(=5\) must be 4; use residual=False"),
        ((4, 4, 3, 2, 1, {"residual": True}), ValueError, r"needs a `stride` \(=\(2, 2\)\) of 1"),
        ((4, 4, 3, 1, 0, {}), ValueError, "must keep the size where the input is added"),
        ((4, 4, 3, 1, 7, {"padding_mode": "reflect"}), ValueError, "must keep the size where the input is added"),
        ((4, 4, 3, 1, 1, {"residual": 1}), TypeError, "must be True or False"),
        ((4, 4, 3, 1, 1, {"expansion": "6"}), TypeError, "must be a number, not str"),
        ((4, 4, 3, 1, 1, {"expansion": True}), TypeError, "must be a number, not bool"),
        ((4, 4, 3, 1, 1, {"expansion": 0.1}), ValueError, "must leave a channel of 4"),
        ((4, 4, 3, 1, 1, {"expansion": -2}), ValueError, "must leave a channel of 4"),
        ((4, 4, 3, 1, 1, {"expansion": float("inf")}), ValueError, "must leave a channel of 4"),
        ((4, 4, 3, 1, 1, {"norm": torch.nn.BatchNorm2d(4)}), TypeError, "must make a module for each part"),
        ((4, 4, 3, 1, 1, {"norm": 3}), TypeError, "must be a module, or make one"),
        (("4", 4, 3, 1, 1, {}), TypeError, "`in_channels`"),
    ],
)
def test_wrong_arguments(arguments, error, said):
    *numbers, more = arguments
    with pytest.raises(error, match=said):
        nn.InvertedResidual2d(*numbers, **more)


@needs_library
def test_wrong_weights_are_named():
    made, x = block(norm=None), torch.randn(2, 5, 6, 6)
    made.separable.pointwise_weight = torch.nn.Parameter(torch.randn(5, 14, 1, 1))
    with torch.no_grad(), pytest.raises(ValueError, match="`pointwise_weight`"):
        made(x)
    made = block(norm=None)
    made.expansion.weight = torch.nn.Parameter(torch.randn(15, 4, 1, 1))
    with torch.no_grad(), pytest.raises(ValueError, match="`weight`"):
        made(x)


@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (5,), (2, 5, 6), (2, 5, 0, 6)])
@pytest.mark.parametrize("expansion", [1, 3])
def test_wrong_inputs(shape, expansion):
    made = block(norm=None, expansion=expansion)
    with torch.no_grad(), pytest.raises(ValueError, match="`input`"):
        made(torch.randn(shape))
