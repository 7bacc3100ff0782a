# SPDX-License-Identifier: Apache-2.0
"""The layers that ``accelerate`` puts: each computes the formula in every type, layout and geometry."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import omniconv
from convert.accelerated_steps import X, accelerated, conv, norm
from omniconv.core.chain import FollowedConv, Link, alone
from omniconv.core.family import families
from omniconv.core.library import absent
from omniconv.ops.conv import prepacked
from omniconv.ops.conv.prepacked import PrepackedConv, why_not_prepacked
from tolerance import assert_close

needs_library = pytest.mark.skipif(bool(absent()), reason=absent())
ACTIVATIONS = (None, nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish())
TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SIZES = {1: (13,), 2: (7, 9), 3: (5, 4, 6)}


def layer(dim, *sizes, dtype=None, **options):
    made = getattr(omniconv.nn, f"Conv{dim}d")(*sizes, **options).requires_grad_(False).eval()
    return made.to(dtype)


def formula(made, x):
    """A convolution in float64, and the sum of its products' sizes."""
    problem = made.problem
    flat = [amount for pair in reversed(problem.pads()) for amount in pair]
    x, weight = F.pad(x.double(), flat), made.weight.double()
    bias = None if made.bias is None else made.bias.double()
    numbers = problem.stride, 0, problem.dilation, problem.groups
    found = CONVOLVE[problem.dim](x, weight, bias, *numbers)
    return found, CONVOLVE[problem.dim](x.abs(), weight.abs(), None if bias is None else bias.abs(), *numbers)


def followed(found, activation, residual=None):
    found = found if residual is None else found + residual.double()
    return found if activation is None else activation(found)


def laid(x, layout):
    forms = {4: torch.channels_last, 5: torch.channels_last_3d}
    if layout == "channels last" and x.dim() in forms:
        return x.contiguous(memory_format=forms[x.dim()])
    return x.movedim(1, -1).contiguous().movedim(-1, 1) if layout == "channels last" else x


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("kind", [PrepackedConv, FollowedConv])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_convolution_with_what_follows(dim, kind, activation):
    if kind is PrepackedConv and dim == 1:
        assert why_not_prepacked(layer(1, 4, 6, 3).problem) == "oneDNN's operators take images and volumes"
        return
    for dtype, layout, bias in product(TYPES, ("in order", "channels last"), (True, False)):
        made = layer(dim, 4, 6, 3, padding=1, bias=bias, dtype=dtype)
        x = laid(torch.randn(2, 4, *SIZES[dim]).to(dtype), layout)
        right, terms = formula(made, x)
        module = kind(made, activation)
        assert_close(module(x), followed(right, activation), terms=None)
        for other in ("in order", "channels last"):
            residual = laid(torch.randn(right.shape).to(dtype), other)
            assert_close(module(x, residual), followed(right, activation, residual))
        if activation is None:
            assert_close(module(x), right, terms=terms)


@st.composite
def problems(draw):
    dim = draw(st.integers(2, 3))
    axis = st.tuples(*dim * (st.integers(1, 3),))
    groups, options = draw(st.sampled_from([1, 2, 4])), {}
    options["padding"] = draw(st.tuples(*dim * (st.tuples(st.integers(0, 3), st.integers(0, 3)),)))
    options |= {"stride": draw(axis), "dilation": draw(axis), "bias": draw(st.booleans()), "groups": groups}
    outputs = groups * draw(st.integers(1, 5))
    size = [draw(st.integers(1, 11 if dim == 2 else 7)) for _ in range(dim)]
    return dim, (4, outputs, draw(axis)), options, (draw(st.integers(1, 3)), 4, *size)


LIES = ["in order", "channels last", "expanded", "turned", "every second", "narrow"]


def lying(shape, how):
    if how == "expanded":
        return torch.randn(1, *shape[1:]).expand(shape)
    if how == "turned":
        return torch.randn(*shape[:-2], shape[-1], shape[-2]).transpose(-1, -2)
    if how == "every second":
        return torch.randn(*shape[:-1], 2 * shape[-1])[..., ::2]
    if how == "narrow":
        return torch.randn(shape[0], shape[1] + 3, *shape[2:])[:, 2:-1]
    return laid(torch.randn(shape), how)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(problems(), st.sampled_from(ACTIVATIONS), st.sampled_from(LIES), st.sampled_from([None, *LIES]), st.booleans())
def test_any_geometry_packed(problem, activation, how, added, innermost):
    torch.manual_seed(0)
    dim, sizes, options, shape = problem
    made = layer(dim, *sizes, **options)
    module, x = PrepackedConv(made, activation), lying(shape, how)
    try:
        right, _ = formula(made, x)
    except RuntimeError:
        with pytest.raises((RuntimeError, ValueError)):
            module(x, innermost=innermost)
        return
    residual = None if added is None else lying(tuple(right.shape), added)
    for _ in range(2):
        assert_close(module(x, residual, innermost), followed(right, activation, residual))
    other = torch.randn(1, 4, *(side + 2 for side in shape[2:]))  # with the weights that were packed
    assert_close(module(other, None, innermost), followed(formula(made, other)[0], activation))


def test_geometries_where_no_tap_meets_an_input():
    for kernel, stride, dilation, pads, size in [(1, 3, 1, 2, 1), (2, 1, 2, 1, 1), (2, 3, 3, 2, 1), (1, 1, 1, 2, 1)]:
        made = layer(2, 4, 6, (1, kernel), stride=(1, stride), dilation=(1, dilation), padding=(0, pads))
        for activation, side in ((nn.ReLU(), 5), (nn.SiLU(), 1)):
            x = torch.randn(2, 4, side, size)
            assert_close(PrepackedConv(made, activation)(x), followed(formula(made, x)[0], activation))


def rewritten(family, links):
    return families()[family].part("rewrites").rewrite(links)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_depthwise_blocks_of_any_geometry(data):
    torch.manual_seed(0)
    dim, activation = data.draw(st.integers(1, 3)), st.sampled_from(ACTIVATIONS)
    axis, dtype = st.tuples(*dim * (st.integers(1, 3),)), data.draw(st.sampled_from([torch.float32, torch.float64]))
    expanded, multiplied, shape = data.draw(st.booleans()), data.draw(st.integers(1, 2)), (2, 4, *SIZES[dim])
    hidden, outputs = 6 if expanded else 4, data.draw(st.sampled_from([4, 5]))
    multiplied = 1 if expanded else multiplied
    size, keeps = data.draw(axis), data.draw(st.booleans())
    pads = [((k - 1) // 2, k // 2) if keeps else data.draw(st.tuples(*2 * (st.integers(0, 2),))) for k in size]
    options = {"padding": tuple(pads), "stride": 1 if keeps else data.draw(axis), "bias": data.draw(st.booleans())}
    parts = [layer(dim, 4, hidden, 1, bias=data.draw(st.booleans()))] if expanded else []
    parts.append(layer(dim, hidden, hidden * multiplied, size, groups=hidden, **options))
    parts.append(layer(dim, hidden * multiplied, outputs, 1))
    parts = [part.to(dtype) for part in parts]
    x, follow = torch.randn(shape, dtype=dtype), [data.draw(activation) for _ in parts]
    right = x
    for part, after in zip(parts[:-1], follow, strict=False):
        right = followed(formula(part, right)[0], after)
    right = formula(parts[-1], right)[0]
    fits = right.shape == x.shape and keeps
    added = data.draw(st.sampled_from(["", "other", *(["input"] if fits else [])]))
    if expanded and added != "other":
        follow[-1] = None
    links = [Link(part, after) for part, after in zip(parts, follow, strict=True)]
    links[-1] = Link(parts[-1], follow[-1], added)
    found = rewritten("depthwise_separable", links)
    if expanded and added == "other":
        assert found == "no depthwise convolution stands before a pointwise one"
        return
    assert (found.links, type(found.module).__name__[:-2]) == (
        (3, "InvertedResidual") if expanded else (2, "DepthwiseSeparableConv")
    )
    residual = {"": None, "input": x, "other": torch.randn(right.shape, dtype=dtype)}[added]
    given_too = () if residual is None or expanded else (residual,)
    for layout in ("in order", "channels last"):
        for _ in range(3):  # weights are packed when they come again
            assert_close(found.module(laid(x, layout), *given_too), followed(right, follow[-1], residual))


@needs_library
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_a_linear_map_of_channels(dim, activation):
    for dtype, bias in product(TYPES, (True, False)):
        made = layer(dim, 5, 6, 1, bias=bias, dtype=dtype) if dim else nn.Linear(5, 6, bias, dtype=dtype)
        module = rewritten("conv", [Link(made.requires_grad_(False), activation, "other")]).module
        assert type(module).__name__ == (f"PointwiseConv{dim}d" if dim else "Linear")
        x = torch.randn(2, 5, *SIZES[dim]).to(dtype) if dim else torch.randn(2, 3, 5).to(dtype)
        wide = None if made.bias is None else made.bias.double()
        right = formula(made, x)[0] if dim else F.linear(x.double(), made.weight.double(), wide)
        residual = torch.randn(right.shape).to(dtype)
        for _ in range(3):
            assert_close(module(x), followed(right, activation))
            assert_close(module(x, residual), followed(right, activation, residual))


@needs_library
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
def test_what_families_refuse_is_computed_alone():
    up = omniconv.nn.ConvTranspose2d(4, 6, 3, 2).requires_grad_(False)
    assert rewritten("conv", [Link(up)]) == "it is a problem of transposed"
    assert rewritten("conv", [Link(layer(2, 4, 4, 3, groups=4))]) == "a compiled kernel computes it by itself"
    assert rewritten("conv", [Link(layer(2, 4, 4, 3, stride=2, padding="tf_same"))]) == (
        "oneDNN pads with zeros, by numbers that no input changes"
    )
    assert rewritten("conv", [Link(nn.Linear(4, 0, device="meta"))]) == "it has no features"
    x, other = torch.randn(2, 4, 5, 6), torch.randn(2, 6, 11, 13)
    assert alone([Link(up)]).module is up
    found = alone([Link(up, nn.SiLU(), "other")]).module
    right = F.silu(F.conv_transpose2d(x.double(), up.weight.double(), up.bias.double(), 2) + other)
    assert_close(found(x, other), right)


def test_odd_inputs():
    made = layer(2, 4, 6, 3, padding=1)
    for module in (PrepackedConv(made, nn.ReLU()), FollowedConv(made, nn.ReLU())):
        assert module(torch.randn(0, 4, 5, 6)).shape == (0, 6, 5, 6)
        one = torch.randn(4, 5, 6)
        assert_close(module(one), module(one[None])[0])
        for wrong in (torch.randn(2, 5, 6, 6), torch.randn(2, 4, 6), torch.randn(2, 4, 6, 6).double()):
            with pytest.raises((RuntimeError, ValueError, TypeError)):
                module(wrong)
    module, x = PrepackedConv(made, nn.ReLU()), torch.randn(2, 4, 5, 6)
    for shape in ((1, 6, 5, 6), (2, 6, 1, 1), (6, 1, 1), (2, 6, 6, 5)):
        with pytest.raises(ValueError, match=r"`residual` shape .* must be that of the output, \(2, 6, 5, 6\)"):
            module(x, torch.randn(shape))


def test_a_machine_without_bfloat16(monkeypatch):
    made = layer(2, 4, 6, 3, dtype=torch.bfloat16)
    module, x = PrepackedConv(made, nn.ReLU()), torch.randn(2, 4, 5, 6).bfloat16()
    monkeypatch.setattr(prepacked, "_takes", lambda dtype: False)
    assert_close(module(x), followed(formula(made, x)[0], nn.ReLU()))
    assert not module._held
    monkeypatch.undo()
    assert_close(module(x), followed(formula(made, x)[0], nn.ReLU()))
    assert module._held


def test_inference_tensors():
    with torch.inference_mode():
        made, x = layer(2, 4, 6, 3), torch.randn(2, 4, 5, 6)
        module = PrepackedConv(made, nn.ReLU())
        right = followed(formula(made, x)[0], nn.ReLU())
        for _ in range(2):
            assert_close(module(x), right)
        net = nn.Sequential(conv(), norm(8), nn.Conv2d(8, 4, 1)).eval()
        picture = torch.randn(X)
        fast, wanted = accelerated(net, picture), net(picture)
    assert_close(module(x.clone()), right)
    assert_close(fast(picture.clone()), wanted.clone())


@pytest.mark.parametrize("kind", [PrepackedConv, FollowedConv])
def test_changed_weights_are_seen(kind):
    made, x = layer(2, 4, 6, 3), torch.randn(2, 4, 5, 6)
    module = kind(made, nn.SiLU())

    def check():
        for _ in range(2):
            assert_close(module(x), followed(formula(made, x)[0], nn.SiLU()))

    check()
    made.weight.mul_(2)
    check()
    made.load_state_dict({name: t + 1 for name, t in made.state_dict().items()})
    check()
    made.weight.data = torch.randn(6, 4, 3, 3)
    check()
    made.weight = nn.Parameter(torch.randn(6, 4, 3, 3), requires_grad=False)
    check()
    module.double()
    x = x.double()
    check()
