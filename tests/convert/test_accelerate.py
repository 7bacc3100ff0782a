# SPDX-License-Identifier: Apache-2.0
"""What ``accelerate`` finds, folds, fuses and says; and what it must compute as written, because it is not the same."""

from __future__ import annotations

import copy
import inspect
import json
import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import omniconv
from convert.accelerated_steps import Calls, Mixed, accelerated, assert_same, conv, networks, norm
from omniconv.convert.accelerate.accelerated import Accelerated
from omniconv.core.library import absent
from tolerance import assert_equal

needs_library = pytest.mark.skipif(bool(absent()), reason=absent())
X = (2, 3, 9, 11)


def depthwise(channels=8, **options):
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, **options)


class Inverted(nn.Module):
    def __init__(self, stride=1, wide=16, outputs=8):
        super().__init__()
        parts = nn.Conv2d(8, wide, 1, bias=False), norm(wide), nn.ReLU6()
        parts += depthwise(wide, stride=stride, bias=False), norm(wide), nn.ReLU6()
        self.parts = nn.Sequential(*parts, nn.Conv2d(wide, outputs, 1, bias=False), norm(outputs))

    def forward(self, x):
        return x + self.parts(x)


def sequence(*parts):
    return nn.Sequential(*parts).eval()


def frozen(net, x):
    """A norm of buffers, as detectors have it."""
    scale = (net.var + 1e-5).rsqrt() * net.weight
    return net.conv(x) * scale.reshape(1, -1, 1, 1) + (net.bias - net.mean * scale).reshape(1, -1, 1, 1)


def with_buffers():
    net = Calls(frozen, conv=conv())
    for name in ("weight", "bias", "mean", "var"):
        net.register_buffer(name, torch.rand(8) + 0.5)
    return net


def functional(net, x):
    y = F.conv2d(x, net.weight, None, 2, 1)
    y = F.batch_norm(y, net.mean, net.var, net.scale, training=False)
    return F.relu(y + net.other(x))


def of_functions():
    parts = {"weight": nn.Parameter(torch.randn(8, 3, 3, 3)), "other": conv(stride=2)}
    parts |= {name: nn.Parameter(torch.rand(8) + 0.5, requires_grad=False) for name in ("mean", "var", "scale")}
    return Calls(functional, **parts)


def number(*shape):
    return nn.Parameter(torch.rand(shape) + 0.5)


# What is there: the network, its input, the layers that stand there then, and the steps of the first
FOUND = {
    "norm and activation": (lambda: sequence(conv(), norm(8), nn.ReLU()), X, ["PrepackedConv"], ["0", "1", "2"]),
    "a norm without factors": (lambda: sequence(conv(), norm(8, affine=False)), X, ["PrepackedConv"], ["0", "1"]),
    "two norms": (lambda: sequence(conv(bias=False), norm(8), norm(8)), X, ["PrepackedConv"], ["0", "1", "2"]),
    "a norm of several machines": (
        lambda: nn.SyncBatchNorm.convert_sync_batchnorm(sequence(conv(), norm(8), nn.SiLU())),
        X,
        ["PrepackedConv"],
        ["0", "1", "2"],
    ),
    "transposed, in groups": (
        lambda: sequence(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), norm(6), nn.GELU()),
        (2, 4, 5, 6),
        ["FollowedConv"],
        ["0", "1", "2"],
    ),
    "a sequence": (lambda: sequence(nn.Conv1d(3, 8, 3), norm(8, 1)), (2, 3, 9), ["Conv1d"], ["0", "1"]),
    "a volume": (lambda: sequence(nn.Conv3d(3, 8, 3), norm(8, 3), nn.ReLU()), (1, 3, 5, 6, 7), ["PrepackedConv"], None),
    "a linear map and a norm": (lambda: sequence(nn.Linear(5, 8), norm(8, 1), nn.ReLU()), (4, 5), ["Linear"], None),
    "depthwise and pointwise": (
        lambda: sequence(depthwise(bias=False), norm(8), nn.ReLU6(), nn.Conv2d(8, 4, 1), norm(4)),
        (2, 8, 9, 9),
        ["DepthwiseSeparableConv2d"],
        ["0", "1", "2", "3", "4"],
    ),
    "an inverted residual": (Inverted, (2, 8, 9, 9), ["InvertedResidual2d"], None),
    "an inverted residual of two strides": (
        lambda: Inverted(stride=2).parts,
        (2, 8, 9, 9),
        ["InvertedResidual2d"],
        None,
    ),
    "an inverted residual that broadcasts": (
        lambda: Inverted(stride=2),
        (2, 8, 1, 1),
        ["PointwiseConv2d", "DepthwiseSeparableConv2d"],
        None,
    ),
    "a residual": (
        lambda: Calls(lambda net, x: F.relu(net.a(x) + x), a=conv(3, 3)),
        X,
        ["PrepackedConv"],
        ["a", "add", "relu"],
    ),
    "a residual on the left, in place": (
        lambda: Calls(lambda net, x: net.a(x).add_(x).relu_(), a=conv(3, 3)),
        X,
        ["PrepackedConv"],
        ["a", "add_", "relu_"],
    ),
    "padding of its own": (
        lambda: sequence(nn.ZeroPad2d((1, 0, 0, 2)), conv(padding=(1, 0)), nn.ReLU()),
        X,
        ["PrepackedConv"],
        ["0", "1", "2"],
    ),
    "padding before a norm": (
        lambda: Calls(lambda net, x: net.b(net.a(F.pad(x, (2, 0, 1, 1)))), a=conv(padding=0), b=norm(8)),
        X,
        ["PrepackedConv"],
        ["pad", "a", "b"],
    ),
    "functions": (of_functions, X, ["PrepackedConv", "PrepackedConv"], ["conv2d", "batch_norm", "add", "relu"]),
    "a norm of buffers": (with_buffers, X, ["PrepackedConv"], ["conv", "mul", "add"]),
    "factors and shifts of every form": (
        lambda: Calls(
            lambda net, x: (2 - net.b * (net.a(x) - 0.5).mul(3.0)) / net.c + net.d,
            a=conv(), b=number(8, 1, 1), c=number(1, 8, 1, 1), d=number(1),
        ),
        X,
        ["PrepackedConv"],
        None,
    ),
    "a linear map brought to the channels": (
        lambda: Calls(lambda net, x: net.b * net.a(x) + x, a=Mixed(2, 8, 8), b=number(8, 1, 1)),
        (2, 8, 5, 6),
        ["Linear"],
        ["a.map", "permute", "mul", "add"],
    ),
    "layers of this library": (
        lambda: sequence(omniconv.nn.Conv2d(3, 8, 3), norm(8), nn.ReLU(), omniconv.nn.DepthwiseConv2d(8, 3), norm(8)),
        X,
        ["PrepackedConv", "DepthwiseConv2d"],
        ["0", "1", "2"],
    ),
    "a causal layer behind a pad": (
        lambda: Calls(lambda net, x: net.b(net.a(F.pad(x, (2, 1)))), a=omniconv.nn.CausalConv1d(3, 8, 3), b=norm(8, 1)),
        (2, 3, 9),
        ["CausalConv1d"],
        ["a", "b"],
    ),
}  # fmt: skip


@needs_library
@pytest.mark.parametrize("name", FOUND)
def test_what_is_found_is_one_layer(name):
    make, shape, layers, steps = FOUND[name]
    net, x = make().eval(), torch.randn(shape)
    fast = accelerated(net, x, changes=layers)
    assert steps is None or list(fast.report.changes[0].steps) == steps
    assert fast.report.left == fast.report.opaque == {}
    assert all(entry.distance.holds and entry.distance.theirs > 0 for entry in fast.report.changes)
    if shape[2:] != (1, 1):
        assert_same(net, fast, torch.randn(5, *shape[1:2], *(size + 4 for size in shape[2:])))


def double(*shape):
    return torch.full(shape, 2.0, dtype=torch.float64)


# What looks like the above and is not: the forward, its parts, and how many steps the first convolution's layer takes
APART = {
    "the result is read elsewhere": (lambda net, x: (y := net.a(x)).relu() + y, {}, 1),
    "the result of a norm is read elsewhere": (lambda net, x: F.relu(y := net.n(net.a(x))) * y, {"n": norm(8)}, 2),
    "added to itself": (lambda net, x: (y := net.a(x)) + y, {}, 1),
    "added twice as much": (lambda net, x: torch.add(net.a(x), net.b(x), alpha=2), {"b": conv()}, 1),
    "a constant is added twice as much": (lambda net, x: torch.add(net.a(x), 3, alpha=2), {}, 1),
    "alpha in the old place": (lambda net, x: torch.add(net.a(x), 2, net.b(x)), {"b": conv()}, 1),
    "subtracted": (lambda net, x: net.a(x) - net.b(x), {"b": conv()}, 1),
    "the divisor": (lambda net, x: 1.0 / (net.a(x) + 9), {}, 2),
    "the floor of a quotient": (lambda net, x: torch.div(net.a(x), 0.37, rounding_mode="floor").sign().mean(), {}, 1),
    "a constant of more axes": (lambda net, x: net.a(x) * net.c, {"c": number(2, 1, 8, 1, 1)}, 1),
    "a constant for each column": (lambda net, x: net.a(x) * net.c, {"c": number(11)}, 1),
    "a constant in float64": (lambda net, x: net.a(x) * double(1), {}, 1),
    "a factor of no channels": (lambda net, x: net.a(x) * net.c, {"c": number(1, 8, 9, 11)}, 1),
    "what is added is smaller": (lambda net, x: net.a(x) + net.b(x).mean((2, 3), keepdim=True), {"b": conv()}, 1),
    "other bounds": (lambda net, x: F.hardtanh(net.a(x), 0.0, 5.0), {}, 1),
    "another activation": (lambda net, x: F.leaky_relu(net.a(x)), {}, 1),
    "statistics of the batch": (lambda net, x: net.n(net.a(x)), {"n": norm(8, track_running_stats=False)}, 1),
    "a function's statistics of the batch": (
        lambda net, x: F.batch_norm(net.a(x), x.new_zeros(8), x.new_ones(8), training=True),
        {},
        1,
    ),
    "a complex factor": (lambda net, x: (net.a(x) * 2j).imag, {}, 1),
    "zeros that are no zeros": (lambda net, x: net.a(F.pad(x, (1, 1), value=0.5)), {}, 1),
    "zeros that are read elsewhere": (lambda net, x: net.a(y := F.pad(x, (1, 1))).mean() + y, {}, 1),
    "zeros before another mode of padding": (
        lambda net, x: net.b(F.pad(net.a(x), (1, 1))),
        {"b": conv(8, 8, padding_mode="circular")},
        1,
    ),
}


@pytest.mark.filterwarnings("ignore:This overload of add is deprecated")
@pytest.mark.parametrize("name", APART)
def test_what_only_looks_like_it_is_computed_as_written(name):
    function, parts, steps = APART[name]
    net, x = Calls(function, a=conv(), **parts).eval(), torch.randn(X)
    fast = accelerated(net, x, verify=False)  # a proof would take back what is wrong
    assert [len(entry.steps) for entry in fast.report.changes if "a" in entry.steps] == [steps]
    assert_same(net, fast, torch.randn(2, 3, 9, 11))


def test_one_convolution_with_two_norms_and_one_norm_behind_two_convolutions():
    net = Calls(
        lambda net, x: net.n(net.a(x)) + net.m(net.a(x)) * net.m(net.b(x)), a=conv(), b=conv(), n=norm(8), m=norm(8)
    )
    fast = accelerated(net.eval(), torch.randn(X))
    assert [entry.steps[:2] for entry in fast.report.changes] == [("a", "n"), ("a", "m"), ("b", "m")]


def test_both_addends_are_convolutions():
    net = Calls(lambda net, x: F.relu(net.a(x) + net.b(x)), a=conv(), b=conv())
    fast = accelerated(net, torch.randn(X), changes=["PrepackedConv", "PrepackedConv"])
    assert sorted(len(entry.steps) for entry in fast.report.changes) == [1, 3]


def test_steps_that_return_what_they_are_given_are_gone():
    net = Calls(
        lambda net, x: net.c(input=net.b(net.a(x), 0.5, training=False)), a=conv(), b=F.dropout, c=nn.Identity()
    )
    fast = accelerated(net, torch.randn(X))
    assert sorted(fast.report.removed) == ["c", "dropout"]
    kept = Calls(lambda net, x: net.a(x) * (net.b + 1).exp(), a=conv(), b=number(8, 1, 1))
    assert sorted(accelerated(kept, torch.randn(X)).report.removed) == ["add", "exp"]


def test_axes_are_counted_before_layers_that_keep_them():
    net = Calls(lambda net, x: F.relu(y := net.a(x)).sum(y.dim() - 1), a=conv())
    fast = accelerated(net, torch.randn(X))
    assert fast.report.changes[0].steps == ("a", "relu")
    assert_same(net, fast, torch.randn(3, 7, 8))


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(networks(), st.sampled_from(["channels last", "in order"]), st.sampled_from([torch.float32, torch.float64]))
def test_random_networks(drawn, layout, dtype):
    (net, size, maps), generator = drawn, torch.Generator().manual_seed(0)
    net, x = net.to(dtype), torch.randn(2, *size, generator=generator, dtype=dtype)
    fast = accelerated(net, x, layout=layout, verify=False)  # whose proof would take back what is wrong
    assert fast.report.left == fast.report.opaque == {}
    assert len(fast.report.changes) <= maps
    others = (1, *size), (3, size[0], *(side + 5 for side in size[1:])), (0, *size), size
    for shape in others:
        other = torch.randn(shape, generator=generator, dtype=dtype)
        try:
            net(other.clone())
        except (RuntimeError, ValueError):
            continue
        try:
            assert_same(net, fast, other)
        except ValueError as error:  # a norm or a constant for which a sample without a batch is another thing
            assert "axes must have" in str(error)  # noqa: PT017
            assert shape == size


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_networks_are_proved(drawn):
    net, size, _ = drawn
    x = torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    report = accelerated(net, x).report
    assert {"the inputs given", "random inputs", "another batch"} <= report.whole.keys() | report.skipped.keys()
    assert all(entry.distance.holds for entry in report.changes)
    assert report.left == {}


def test_the_model_is_untouched():
    net = nn.Sequential(
        conv(), norm(8), nn.ReLU(inplace=True), nn.Dropout(), nn.Flatten(), nn.Linear(8 * 99, 4)
    ).train()
    seen = []
    handle = net[2].register_forward_hook(lambda *_: seen.append(1))
    before, x = {name: t.clone() for name, t in net.state_dict().items()}, torch.randn(X)
    kept, names = x.clone(), {name: list(vars(module)) for name, module in net.named_modules()}
    fast = omniconv.accelerate(net, x, seconds=0)
    assert fast.report.changes
    handle.remove()
    for name, tensor in net.state_dict().items():
        assert_equal(tensor, before[name])
    assert_equal(x, kept)
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert {name: list(vars(module)) for name, module in net.named_modules()} == names
    own, new = ({t.untyped_storage().data_ptr() for t in m.state_dict().values()} for m in (net, fast))
    assert own.isdisjoint(new)


def test_no_random_number_is_drawn():
    net = sequence(conv(), norm(8), depthwise(), nn.Conv2d(8, 4, 1), nn.Dropout())
    drawn = torch.get_rng_state(), random.getstate()
    accelerated(net, torch.ones(X))
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert random.getstate() == drawn[1]


def test_a_network_that_has_the_names_of_new_parts():
    parts = {"accelerated_0": nn.Sequential(nn.Tanh(), conv(8, 8)), "constant_exp": number(8, 1, 1), "a": conv()}
    net = Calls(lambda net, x: net.accelerated_0(net.a(x) * net.constant_exp.exp()) * net.constant_exp, **parts)
    fast = accelerated(net, torch.randn(X), changes=["PrepackedConv", "PrepackedConv"])
    again = omniconv.accelerate(fast, torch.randn(X), seconds=0)
    assert again.report.refused == "there is nothing in it that could be faster"
    assert_same(net, again, torch.randn(X))


def test_the_result():
    net = sequence(conv(), norm(8))
    fast = accelerated(net, torch.randn(X))
    assert isinstance(fast, Accelerated)
    assert fast.eval() is fast
    assert not any(module.training for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    with pytest.raises(RuntimeError, match="an accelerated network computes inference only"):
        fast.train()
    with pytest.raises(RuntimeError, match="computes inference only"):
        nn.Sequential(fast).train()


def test_the_report():
    net = sequence(
        nn.Sequential(conv(), norm(8), nn.ReLU()), nn.Dropout(), nn.utils.parametrizations.weight_norm(conv(8, 8))
    )
    report = accelerated(net, torch.randn(X), layout="in order").report
    entry = report.changes[0]
    assert (entry.name, entry.layer, entry.steps) == ("0.0 … 0.2", "PrepackedConv", ("0.0", "0.1", "0.2"))
    assert (report.removed, list(report.left), report.layout, report.ratio) == (("1",), ["2"], "in order", None)
    assert 0 < report.whole["larger inputs"].ours <= report.whole["larger inputs"].allowed < 1e-3
    told = json.loads(json.dumps(report.to_dict()))
    assert (told["changes"][0]["name"], told["refused"], told["left"]) == ("0.0 … 0.2", "", dict(report.left))
    assert report.to_records()[0]["layer"] == "PrepackedConv"
    assert "0.0 … 0.2" in str(report)
    assert "s·(Wx + b) + t" in str(report)


def test_times():
    fast = omniconv.accelerate(sequence(conv(), norm(8), nn.ReLU()), torch.randn(X), seconds=0.02)
    report = fast.report
    assert {"before", "after"} <= report.times.keys() or "it would not be faster" in report.refused
    assert report.ratio is None or report.ratio > 0


def test_copies_of_the_signature_and_of_the_module():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = conv()

        def forward(self, pictures, scale: float = 2.0, *, shift=None, **more):
            y = self.a(pictures) * scale
            return y if shift is None else y + shift

    net, x = Named(), torch.randn(X)
    fast = accelerated(net, x)
    assert inspect.signature(fast) == inspect.signature(net.forward)
    for options in ({}, {"scale": 3.0}, {"shift": None}):
        assert_same(net, fast, x, **options)
        assert_same(net, copy.deepcopy(fast), pictures=x, **options)
