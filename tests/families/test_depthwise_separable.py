# SPDX-License-Identifier: Apache-2.0
"""Laws of the depthwise separable convolution: two in sequence, one dense one, and the state dicts of others."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from fractions import Fraction
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.family import Position, families, family_of
from omniconv.core.family import settings as named_settings
from omniconv.core.observe import listening
from omniconv.core.problem import PADDING_MODES, ConvProblem
from omniconv.core.taps import count_products, field_of_path
from tolerance import assert_close, assert_equal

DIMS = (1, 2, 3)
LAYERS = {d: getattr(nn, f"DepthwiseSeparableConv{d}d") for d in DIMS}
TORCH = {d: getattr(torch.nn, f"Conv{d}d") for d in DIMS}
FUNCTIONS = {d: getattr(OF, f"depthwise_separable_conv{d}d") for d in DIMS}


def whole(*shape):
    """Small whole numbers in float64: every sum of their products is exact."""
    return torch.randint(-3, 4, shape).double()


def filled(layer):
    """The layer with small whole numbers for weights."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(*parameter.shape))
    return layer


@st.composite
def layers(draw):
    """A layer of whole numbers and an input for it."""
    dim, mode = draw(st.integers(1, 3)), draw(st.sampled_from(PADDING_MODES))
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(dim)) for most in (4 - dim // 3, 3, 2))
    pair = st.tuples(st.integers(0, 3), st.integers(0, 3))
    layer = LAYERS[dim](
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        kernel,
        stride,
        tuple(draw(st.one_of(pair, st.sampled_from(("valid", "tf_same", "causal")))) for _ in range(dim)),
        dilation,
        draw(st.booleans()),
        mode,
        dtype=torch.float64,
        multiplier=draw(st.integers(1, 3)),
        depthwise_bias=draw(st.booleans()),
    )
    sizes = tuple(draw(st.integers(1, 7)) + d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    try:
        layer.problem.at(sizes)
    except ValueError:
        assume(condition=False)
    return filled(layer), whole(2, layer.in_channels, *sizes)


@settings(max_examples=120)
@given(layers())
def test_equals_one_dense_convolution_of_the_composed_kernel(case):
    layer, x = case
    dense = layer.to_dense()
    assert dense.weight.shape == (layer.out_channels, layer.in_channels, *layer.kernel_size)
    assert_equal(layer(x), dense(x))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize(("depthwise_bias", "bias"), list(product((False, True), repeat=2)))
def test_equals_torchs_two_layers_and_is_drawn_like_them(dim, depthwise_bias, bias):
    torch.manual_seed(2)
    layer = LAYERS[dim](4, 6, 3, 2, 1, bias=bias, multiplier=2, depthwise_bias=depthwise_bias)
    torch.manual_seed(2)
    sequence = torch.nn.Sequential(
        TORCH[dim](4, 8, 3, 2, 1, groups=4, bias=depthwise_bias), TORCH[dim](8, 6, 1, bias=bias)
    )
    assert_close(layer.depthwise_weight, sequence[0].weight)
    assert_close(layer.pointwise_weight, sequence[1].weight)
    layer.load_state_dict(sequence.state_dict())
    x = torch.randn(2, 4, *(7, 8, 6)[:dim])
    assert_close(layer(x), sequence(x))
    assert_equal(layer(x[0]), layer(x)[0])


def blocks(dim, *, norm=torch.nn.BatchNorm2d, activation=torch.nn.ReLU6):
    """A MobileNet block of omniconv and the same of torch, with statistics that are not those of a fresh norm."""
    norm = {1: torch.nn.BatchNorm1d, 2: norm, 3: torch.nn.BatchNorm3d}[dim]
    between = {"mid_norm": norm, "mid_activation": activation, "norm": norm, "activation": activation}
    layer = LAYERS[dim](4, 6, 3, stride=2, padding=1, bias=False, **between)
    sequence = torch.nn.Sequential(
        TORCH[dim](4, 4, 3, 2, 1, groups=4, bias=False),
        norm(4),
        activation(),
        TORCH[dim](4, 6, 1, bias=False),
        norm(6),
        activation(),
    )
    for name, value in sequence.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 * ("var" in name))
    return layer, sequence


@pytest.mark.parametrize("dim", DIMS)
def test_a_mobilenet_block_loads_and_computes_as_the_sequence(dim):
    layer, sequence = blocks(dim)
    layer.load_state_dict(sequence.state_dict())
    x = torch.randn(3, 4, *(9, 8, 7)[:dim])
    for training in (True, False):
        layer.train(training), sequence.train(training)
        assert_close(layer(x), sequence(x))
    assert set(layer.state_dict()) >= {"depthwise_weight", "pointwise_weight", "mid_norm.running_var", "norm.weight"}
    again = copy.deepcopy(layer)
    again.load_state_dict(pickle.loads(pickle.dumps(layer)).state_dict())  # noqa: S301  # written a moment ago
    assert_equal(again(x), layer(x))


class NamedAsInTimm(torch.nn.Module):
    """The entries of timm's SeparableConv2d and SeparableConvNormAct."""

    def __init__(self, *, normed):
        super().__init__()
        self.conv_dw = torch.nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False)
        self.conv_pw = torch.nn.Conv2d(8, 6, 1, bias=not normed)
        self.bn = torch.nn.BatchNorm2d(6) if normed else torch.nn.Identity()

    def forward(self, x):
        return self.bn(self.conv_pw(self.conv_dw(x)))


@pytest.mark.parametrize("normed", [False, True])
def test_timms_entries_load_also_inside_a_network(normed):
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), NamedAsInTimm(normed=normed))
    norm = torch.nn.BatchNorm2d if normed else None
    layer = nn.DepthwiseSeparableConv2d(4, 6, 3, padding=1, bias=not normed, multiplier=2, norm=norm)
    ours = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), layer)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 8, 9)
    assert_close(ours(x), theirs(x))


def test_entries_named_by_their_part_load_and_others_are_refused():
    layer = nn.DepthwiseSeparableConv1d(3, 5, 3, depthwise_bias=True)
    values = {name: value.clone() for name, value in layer.state_dict().items()}
    other = {
        "depthwise.weight": values["depthwise_weight"] + 1,
        "depthwise.bias": values["depthwise_bias"] + 1,
        "pointwise.weight": values["pointwise_weight"] + 1,
        "pointwise.bias": values["bias"] + 1,
    }
    layer.load_state_dict(other)
    assert list(layer.state_dict()) == list(values)
    for name, value in layer.state_dict().items():
        assert_equal(value, values[name] + 1)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"depthwise_bias"'):
        nn.DepthwiseSeparableConv1d(3, 5, 3).load_state_dict(other)
    with pytest.raises(RuntimeError, match=r'Missing key.*"pointwise_weight"'):
        layer.load_state_dict({"depthwise.weight": other["depthwise.weight"]})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        layer.load_state_dict({**values, "2.weight": values["bias"]})


def keras_by_loop(x, taps, across, bias, stride):
    """Keras's SeparableConv1D with padding "same": TensorFlow's rule, and one bias at the very end."""
    (c, n), k, m = x.shape, taps.shape[-1], taps.shape[0] // x.shape[0]
    outs = -(-n // stride)
    before = max((outs - 1) * stride + k - n, 0) // 2
    y = np.repeat(bias[:, None], outs, axis=1)
    for p, tap, q in product(range(outs), range(k), range(c * m)):
        at = stride * p + tap - before
        if 0 <= at < n:
            y[:, p] += across[:, q] * taps[q, tap] * x[q // m, at]
    return y


@pytest.mark.pitfall(15)
@pytest.mark.parametrize(("n", "k", "s"), list(product((5, 8), (2, 3, 5), (1, 2, 3))))
def test_the_bias_of_keras_stands_at_the_end(n, k, s):
    x, taps, across, bias = whole(3, n), whole(6, 1, k), whole(4, 6, 1), whole(4)
    want = keras_by_loop(x.numpy(), taps[:, 0].numpy(), across[:, :, 0].numpy(), bias.numpy(), s)
    assert_equal(OF.depthwise_separable_conv1d(x, taps, across, bias, s, "tf_same"), torch.from_numpy(want))


@pytest.mark.parametrize("dim", DIMS)
def test_functions_read_the_multiplier_from_the_weights(dim):
    layer = filled(LAYERS[dim](3, 4, 2, 2, 1, multiplier=3, depthwise_bias=True, dtype=torch.float64))
    weights = (layer.depthwise_weight, layer.pointwise_weight, layer.bias)
    x = whole(2, 3, *(5, 6, 4)[:dim])
    got = FUNCTIONS[dim](x, *weights, 2, 1, depthwise_bias=layer.depthwise_bias)
    assert_equal(got, layer(x))
    with pytest.raises(ValueError, match=re.escape("`depthwise_weight` filters (=9) must be a multiple of")):
        FUNCTIONS[dim](x[:, :2], *weights, 2, 1)
    with pytest.raises(ValueError, match="`input` has 1 dimensions"):
        FUNCTIONS[dim](x.flatten(), *weights)
    with pytest.raises(TypeError, match="`input`"):
        FUNCTIONS[dim](x.tolist(), *weights)
    with pytest.raises(ValueError, match="`pointwise_weight` shape"):
        FUNCTIONS[dim](x, layer.depthwise_weight, layer.pointwise_weight[:, :3])


def test_arguments_begin_as_those_of_torchs_convolution():
    names = list(inspect.signature(nn.DepthwiseSeparableConv2d).parameters)
    theirs = [name for name in inspect.signature(torch.nn.Conv2d).parameters if name != "groups"]
    assert names[: len(theirs)] == theirs


def test_counts():
    _, setting = named_settings()["depthwise-separable"]
    problem = setting.build(Position(64, 128, (56, 56), (3, 3), (1, 1), (1, 1)))
    cost = families()["depthwise_separable"].cost(problem)
    assert (cost.params, cost.macs) == (8_768, 27_496_448)
    assert [(step.name, step.macs.value) for step in cost.steps] == [
        ("depthwise", 1_806_336),
        ("pointwise", 25_690_112),
    ]
    dense = 56 * 56 * 64 * 128 * 9
    assert Fraction(cost.macs, dense) == Fraction(1, 128) + Fraction(1, 9)
    assert sum(p.numel() for p in nn.DepthwiseSeparableConv2d(16, 32, 3, bias=False).parameters()) == 656


@pytest.mark.parametrize("text", families()["depthwise_separable"].cases.values())
def test_counts_and_field_are_those_of_the_parts(text):
    problem = ConvProblem.parse(text)
    family = families()["depthwise_separable"]
    assert family.cost(problem).macs == sum(count_products(part).all_taps for part in family.path(problem))
    assert tuple(axis.size for axis in field_of_path(family.path(problem))) == problem.span


def test_what_a_listener_counts_adds_up_with_and_without_a_norm_between():
    seen = []

    def listener(problem, _tensors, run):
        seen.append(problem)
        return run()

    plain = nn.DepthwiseSeparableConv2d(4, 6, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 4, 9, 8)
    with listening(listener):
        plain(x)
        blocks(2)[0](x)
    assert [p.family for p in seen] == ["depthwise_separable", "conv", "conv"]
    macs = [family_of(p).cost(p).macs for p in seen]
    assert macs[0] == macs[1] + macs[2]


def test_norms_and_activations_are_modules_their_makers_or_functions():
    own = torch.nn.PReLU(5)
    layer = nn.DepthwiseSeparableConv2d(
        4,
        5,
        3,
        mid_norm=partial(torch.nn.GroupNorm, 2),
        mid_activation=F.silu,
        norm=torch.nn.Identity(),
        activation=own,
    )
    assert layer.mid_norm.num_channels == 4
    assert layer.activation is own
    x = torch.randn(1, 4, 6, 7)
    between = F.silu(layer.mid_norm(F.conv2d(x, layer.depthwise_weight, groups=4)))
    assert_close(layer(x), own(F.conv2d(between, layer.pointwise_weight, layer.bias)).double())
    assert (
        nn.DepthwiseSeparableConv2d(4, 5, 3, norm=torch.nn.BatchNorm2d, dtype=torch.float64).norm.weight.dtype
        == torch.float64
    )
    made = nn.DepthwiseSeparableConv2d(4, 5, 3, activation=partial(torch.nn.LeakyReLU, 0.2))
    assert made.activation.negative_slope == 0.2
    assert "multiplier=2, depthwise_bias=True" in repr(
        nn.DepthwiseSeparableConv1d(2, 3, 3, multiplier=2, depthwise_bias=True)
    )


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"multiplier": 0}, ValueError, "`multiplier` (=0) must be at least 1"),
        ({"multiplier": 1.5}, TypeError, "`multiplier` (=1.5) must be an integer"),
        ({"depthwise_bias": 1}, TypeError, "`depthwise_bias` (=1) must be True or False"),
        ({"mid_norm": "batch"}, TypeError, "`mid_norm` (='batch') must be a module"),
        ({"norm": lambda _: 3}, TypeError, "must be a module, or make one from a number of channels"),
        ({"activation": "relu"}, TypeError, "`activation` (='relu') must be a module, its class, or a function"),
        ({"stride": 2, "padding": "same"}, ValueError, "use 'tf_same'"),
    ],
)
def test_wrong_values_are_named(arguments, error, text):
    with pytest.raises(error, match=re.escape(text)):
        nn.DepthwiseSeparableConv2d(4, 4, 3, **arguments)


def test_no_dense_form_with_something_between():
    with pytest.raises(ValueError, match=r"`mid_activation` \(=ReLU\(\)\) stands between"):
        nn.DepthwiseSeparableConv2d(4, 4, 3, mid_activation=torch.nn.ReLU).to_dense()


@pytest.mark.parametrize("bad", ["groups=2", "multiplier=0", "depthwise-bias=2"])
def test_problems_of_other_numbers_are_refused(bad):
    text = {"groups=2": "g2_depthwise-bias=0_multiplier=1", "multiplier=0": "depthwise-bias=0_multiplier=0"}
    problem = ConvProblem.parse(f"depthwise_separable:c4_o4_k3_{text.get(bad, 'depthwise-bias=2_multiplier=1')}")
    with pytest.raises(ValueError, match="must be"):
        families()["depthwise_separable"].check(problem)


def test_a_block_under_compile():
    layer, _ = blocks(2)
    compiled = torch.compile(layer.eval(), fullgraph=True, dynamic=True, backend="eager")
    for size in ((9, 8), (6, 11)):
        x = torch.randn(2, 4, *size)
        assert_equal(compiled(x), layer(x))


def test_an_activation_may_be_a_function_with_arguments_bound():
    leaky = partial(torch.nn.functional.leaky_relu, negative_slope=0.1)
    layer = nn.DepthwiseSeparableConv2d(4, 4, 3, activation=leaky)
    made = nn.DepthwiseSeparableConv2d(4, 4, 3, activation=partial(torch.nn.LeakyReLU, 0.1))
    made.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(layer(x), made(x))
    assert bool((layer(x) < 0).any())
