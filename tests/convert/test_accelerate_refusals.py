# SPDX-License-Identifier: Apache-2.0
"""What ``accelerate`` must leave alone, and why it says so: a trace would show something else than the forward does."""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import omniconv
from convert.accelerated_steps import Calls, X, accelerated, assert_steps, block, conv, norm
from omniconv.ops.conv.prepacked import PrepackedConv
from tolerance import assert_close


def chosen(net, x):
    y = net.a(x)
    return y if y.sum() > 1e9 else net.b(y)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return x * 2

    @staticmethod
    def backward(_, grad):
        return grad


def counted(net, x):
    net.calls += 1
    return net.a(x) * net.calls


def listed(net, x):
    net.sizes.append(x.shape)
    return net.a(x) * len(net.sizes)


def remembered(net, x):
    net.seen = net.a(x)
    return net.seen


def cached(net, x):
    key = str(type(x))
    if key not in net.cache:
        net.cache[key] = net.a(x)
    return net.a(x)


def averaged(net, x):
    y = net.a(x)
    net.mean.mul_(0.9).add_(y.mean() * 0.1)
    return y - net.mean


def assigned(net, x):
    net.mean = net.mean + 1
    return net.a(x) * net.mean


def loose(net, x):
    net.tensor += 1
    return net.a(x) * net.tensor


def learned(net, x):
    with torch.no_grad():
        net.factor.mul_(0.5)
    return net.a(x) * net.factor


def summed(net, x):
    total = torch.zeros(2, 8, 7, 9)
    total += net.a(x)
    return total


def narrow(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net.a(x)
    return net.b(y.float())


def strided(net, x):
    return net.a(x).as_strided((4, 5), (3, 2))


def typed(net, x):
    return net.b(net.a(x)) if isinstance(x, torch.Tensor) else net.a(x)


def unpacked(net, x):
    return net.a(x["picture"] if not isinstance(x, torch.Tensor) else x)


def with_state(function):
    net = Calls(
        function, a=block(), calls=0, sizes=[], cache={}, tensor=torch.zeros(1), factor=nn.Parameter(torch.ones(1))
    )
    net.register_buffer("mean", torch.zeros(1))
    return net


OWN = "it writes to a tensor that does not come from its inputs"
# A forward that no trace shows right, and why it is not traced; the block in it is accelerated by itself.
OPAQUE = {
    "a choice by numbers": (lambda: Calls(chosen, a=block(), b=conv(8, 8)), "its control flow depends on what it is"),
    "a custom backward": (
        lambda: Calls(lambda net, x: Doubled.apply(net.a(x)), a=block()),
        "it calls the custom autograd function Doubled",
    ),
    "a counter": (lambda: with_state(counted), "its forward changes `calls`"),
    "a list": (lambda: with_state(listed), "its forward changes `sizes`"),
    "a result that is kept": (lambda: with_state(remembered), "its forward changes `seen`"),
    "a cache": (lambda: with_state(cached), "its forward changes `cache`"),
    "an average in a buffer": (lambda: with_state(averaged), "it changes a tensor of its own"),
    "a buffer that is replaced": (lambda: with_state(assigned), "its forward changes `_buffers`"),
    "a tensor that is no buffer": (lambda: with_state(loose), "it changes a tensor of its own"),
    "a parameter that changes": (lambda: with_state(learned), OWN),
    "a sum that starts with zeros": (lambda: Calls(summed, a=block()), OWN),
    "types within": (lambda: Calls(narrow, a=conv(), b=nn.Sequential(conv(8, 8), norm(8))), "it computes under auto"),
    "a view by strides": (lambda: Calls(strided, a=block()), "it looks at how tensors lie in memory"),
    "a question for the class": (lambda: Calls(typed, a=block(), b=conv(8, 8)), "gives something else than the steps"),
    "a question that fails": (lambda: Calls(unpacked, a=block()), "a trace shows steps that fail"),
    "an array's number": (lambda: Calls(lambda net, x: net.a(x) * np.float32(2), a=block()), "it cannot be traced"),
    "a length": (lambda: Calls(lambda net, x: net.a(x) * len(x), a=block()), "it cannot be traced"),
    "a size as a number": (lambda: Calls(lambda net, x: net.a(x) * int(x.shape[-1]), a=block()), "it cannot be traced"),
}  # fmt: skip


@pytest.mark.parametrize("verify", [True, False], ids=["proved", "not proved"])
@pytest.mark.parametrize("name", OPAQUE)
def test_a_forward_that_no_trace_shows_is_kept_and_its_parts_are_accelerated(name, verify):
    make, why = OPAQUE[name]
    net = make().eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    fast = omniconv.accelerate(net, torch.randn(X), seconds=0, verify=verify)
    assert fast.report.refused == ""
    assert why in fast.report.opaque[""]
    assert [entry.layer for entry in fast.report.changes][:1] == ["PrepackedConv"]
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert_steps(net, fast)


@pytest.mark.parametrize("name", OPAQUE)
def test_inside_a_network_the_rest_is_accelerated(name):
    make, why = OPAQUE[name]
    inner = make()
    parts = {"first": nn.Sequential(conv(3, 3), nn.ReLU()), "inner": inner, "last": nn.Linear(9, 4)}
    net = Calls(lambda net, x: net.last(net.inner(net.first(x)).mean(0, keepdim=True)), **parts).eval()
    net.last = nn.Linear(5, 4) if name == "a view by strides" else net.last
    fast = omniconv.accelerate(net, torch.randn(X), seconds=0)
    assert fast.report.refused == ""
    assert why in fast.report.opaque["inner"]
    assert ("" in fast.report.opaque) == name.startswith("a question")  # only then is it not known where
    steps = {
        step.removesuffix(".conv2d").removesuffix(".linear") for entry in fast.report.changes for step in entry.steps
    }
    assert {"first.0", "first.1", "last"} < steps
    assert any(step.startswith("inner.") for step in steps)
    assert_steps(net, fast)


def drawn(net, x):
    return net.a(x) + torch.randn(1)


RANDOM = {
    "torch's": (drawn, "it draws random numbers (aten"),
    "Python's": (lambda net, x: net.a(x) * random.random(), "it draws random numbers"),  # noqa: S311
    "NumPy's": (lambda net, x: net.a(x) * float(np.random.rand()), "it draws random numbers"),  # noqa: NPY002
    "of the input's size": (lambda net, x: net.a(x + torch.randn_like(x)), "gives something else than the steps"),
    "a dropout that stays": (lambda net, x: net.a(F.dropout(x, 0.5)), "gives something else than the steps"),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_cannot_be_proved(name):
    function, why = RANDOM[name]
    net = Calls(function, a=block()).eval()
    fast = omniconv.accelerate(net, torch.randn(X), seconds=0)
    assert "it returns other numbers at each call" in fast.report.refused
    assert why in fast.report.opaque[""]
    assert fast.report.changes == ()
    x, results = torch.randn(X), []
    for model in (net, fast):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        results.append([model(x) for _ in range(2)])
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[1][0], results[1][1])


def test_a_shared_module_is_found_wherever_it_is_called():
    shared = conv(3, 3)
    net = nn.Sequential(shared, nn.ReLU(), Calls(chosen, a=shared, b=shared), shared, nn.SiLU()).eval()
    fast = accelerated(net, torch.randn(X))
    assert [entry.steps for entry in fast.report.changes][:2] == [("0", "1"), ("0", "4")]
    assert_steps(net, fast)


def test_nested_modules_that_cannot_be_traced():
    inner = Calls(chosen, a=nn.Sequential(conv(8, 8), norm(8)), b=nn.ModuleList([conv(8, 8)])[0])
    outer = Calls(chosen, a=nn.Sequential(conv(8, 8), inner, nn.ReLU()), b=conv(8, 8))
    net = nn.Sequential(conv(), outer, conv(8, 4)).eval()
    fast = accelerated(net, torch.randn(X))
    assert sorted(fast.report.opaque) == ["1", "1.a.1"]
    steps = [("0",), ("2",), ("1.a.1.a.0", "1.a.1.a.1"), ("1.a.1.b.conv2d",), ("1.a.0",), ("1.b.conv2d",)]
    assert [entry.steps for entry in fast.report.changes] == steps
    assert sum(isinstance(module, PrepackedConv) for module in fast.modules()) == len(steps)
    assert_steps(net, fast)


def test_a_part_that_the_example_does_not_reach():
    net = Calls(lambda net, x: net.a(x) if x.sum() < 1e9 else net.b(x), a=block(), b=block()).eval()
    fast = accelerated(net, torch.randn(X))
    assert fast.report.opaque["b"] == "the example does not pass through it"
    assert fast.report.opaque.keys() == {"", "b"}
    with torch.no_grad():
        x = torch.full(X, 1e9)
        assert_close(fast(x), net(x))


def test_what_iterates_over_its_parts_still_can():
    def run(net, x):
        for part in net.parts:
            x = part(x) if x.sum() < 1e9 else x
        return x

    net = Calls(run, parts=nn.Sequential(conv(), block().append(conv(8, 8)))).eval()
    net.parts[1][0] = conv(8, 8)
    fast = accelerated(net, torch.randn(X))
    assert [entry.steps[0] for entry in fast.report.changes] == ["parts.0.conv2d", "parts.1.0", "parts.1.3"]
    assert_steps(net, fast)


def test_scripts_and_wrappers():
    x = torch.randn(X)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(block().eval())
    fast = omniconv.accelerate(script, x, seconds=0)
    assert fast.report.refused == "there is nothing in it that could be faster"
    assert_steps(script, fast, 2)
    assert_steps(nn.DataParallel(block().eval()), accelerated(nn.DataParallel(block().eval()), x), 0)
    compiled = torch.compile(block().eval(), backend="eager")
    assert_steps(copy.deepcopy(compiled), accelerated(compiled, x), 2)


def test_a_model_that_has_not_seen_its_input():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"`model` has not seen its input yet \(0.weight, 0.bias\); run it once."):
        omniconv.accelerate(net, torch.randn(X), seconds=0)
    net(torch.randn(X))
    assert_steps(net.eval(), accelerated(net, torch.randn(X), changes=["PrepackedConv"]))


def test_a_complex_convolution_is_left():
    net = nn.Sequential(nn.Conv1d(3, 4, 3, dtype=torch.complex64)).eval()
    report = omniconv.accelerate(net, torch.randn(2, 3, 9, dtype=torch.complex64), seconds=0).report
    assert (report.refused, report.left) == ("there is nothing in it that could be faster", {"0": "it is complex"})
