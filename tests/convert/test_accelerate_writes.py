# SPDX-License-Identifier: Apache-2.0
"""What a network writes to, its inputs and results in between, holds the same numbers when it is accelerated."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import omniconv
from convert.accelerated_steps import Calls, X, accelerated, assert_same, conv, norm
from tolerance import assert_close, assert_equal


def after(net, x):
    p = F.pad(x, (1, 1, 1, 1))
    x.mul_(2)
    return net.a(p) + x.sum()


def through(net, x):
    y = net.a(x)
    y.view(2, 8, -1)[:, 0].mul_(0)
    return net.b(y)


def flat(net, x):
    y = net.a(x)
    y.flatten(2)[:, 1] += 3
    return net.b(y) * y


def started(net, x):
    total = net.start.clone()
    total.add_(net.a(x))
    return total.relu_()


def between(net, x):
    y = net.a(x)
    x.relu_()
    return F.relu(y + x.mean())


def kept(net, x):
    y = x * 1
    z = net.c(y)
    y += 5
    return z + y


def renamed(net, x):
    y = net.a(x)
    other = y
    y += 1
    y *= 2
    return y.relu() + other


def grown(net, x):
    size = x.shape[2]
    size *= 2
    x -= 0.5
    return F.interpolate(net.a(x), size=size)


def into(net, x):
    y = torch.relu(x)
    z = net.a(y)
    net.c(y, z) if False else y.add_(1)
    return z + y.mean()


def set_part(net, x):
    y = net.a(x)
    y[:, 0] = 0
    return net.b(y)


def out_of(net, x):
    y = x * 2
    torch.add(x, 1, out=y)
    return net.a(y)


WRITES = {
    "the input, by an activation": lambda net, x: net.a(F.relu_(x)) + x.sum(),
    "the input, by an activation layer": lambda net, x: net.a(net.r(x)) + x.sum(),
    "the input, behind a pad": after,
    "the input, between a convolution and its activation": between,
    "a part of the input": lambda net, x: (x[:, :1].mul_(2), net.a(x))[1],
    "the input's reshape": lambda net, x: (x.view(2, -1)[0].zero_(), net.a(x))[1],
    "the input, by what is added": lambda net, x: x.add_(net.c(x)),
    "the input, subtracted": lambda net, x: x.sub_(net.c(x)).relu(),
    "a view of a result": through,
    "a flat view of a result": flat,
    "a copy of a parameter": started,
    "what was read before": kept,
    "what has another name": renamed,
    "the input, and a number of its size": grown,
    "what a convolution has read": into,
    "a result, and it is read again": lambda net, x: (y := net.a(x)).relu_() + y,
    "a result without using what comes back": lambda net, x: (y := net.a(x), y.mul_(3))[0],
    "channels of a result": set_part,
    "given memory": out_of,
}  # fmt: skip


@pytest.mark.parametrize("layout", ["channels last", "in order"])
@pytest.mark.parametrize("name", WRITES)
def test_what_is_written_to(name, layout):
    parts = {"a": conv(), "b": conv(8, 8), "c": conv(3, 3), "r": nn.ReLU(inplace=True)}
    net = Calls(WRITES[name], **parts, start=nn.Parameter(torch.randn(2, 8, 7, 9)), p=conv(padding=0)).eval()
    if name == "the input, behind a pad":
        net.a = net.p
    fast = accelerated(net, torch.randn(X), layout=layout, verify=False)
    for _ in range(5):
        x = torch.randn(X)
        one, other = x.clone(), x.clone()
        with torch.no_grad():
            assert_close(fast(one), net(other))
        assert_equal(one, other)


def test_a_file_of_a_network_that_writes_to_what_has_another_name():
    net = Calls(renamed, a=conv()).eval()
    fast = accelerated(net, torch.randn(X))
    assert fast.report.opaque == {}
    assert_same(net, pickle.loads(pickle.dumps(fast)), torch.randn(X))  # noqa: S301


class Steps(nn.Module):
    """Steps of one shape that read and write to what earlier ones gave, of which some is the same."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.convs = nn.ModuleList([conv(4, 4), conv(4, 4, 1), conv(4, 4, groups=4), conv(4, 4, bias=False)])
        self.norms, self.relu, self.map = nn.ModuleList([norm(4), norm(4)]), nn.ReLU(inplace=True), nn.Linear(4, 4)
        self.factor = nn.Parameter(torch.rand(4, 1, 1) + 0.5)

    def forward(self, x):
        values = [x]
        for name, one, other, number in self.steps:
            values.append(STEPS[name](self, values[one], values[other], number))
        return values[-1], values[len(values) // 2], values[-2], values[1]


def double_part(net, a, b, k):
    a[:, :1].mul_(2)
    return a


def add_to(net, a, b, k):
    a += b
    return a


STEPS = {
    "conv": lambda net, a, b, k: net.convs[k](a),
    "norm": lambda net, a, b, k: net.norms[k % 2](a),
    "relu": lambda net, a, b, k: F.relu(a),
    "relu_": lambda net, a, b, k: F.relu_(a),
    "relu in place": lambda net, a, b, k: net.relu(a),
    "silu": lambda net, a, b, k: F.silu(a),
    "add": lambda net, a, b, k: a + b,
    "add_": lambda net, a, b, k: a.add_(b),
    "+=": add_to,
    "factor": lambda net, a, b, k: a * net.factor,
    "half": lambda net, a, b, k: a.mul_(0.5),
    "subtract": lambda net, a, b, k: a - b,
    "dropout": lambda net, a, b, k: F.dropout(a, training=False, inplace=True),
    "view": lambda net, a, b, k: a.flatten(2).view(a.shape),
    "part": double_part,
    "clone": lambda net, a, b, k: a.clone(),
    "map": lambda net, a, b, k: net.map(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "pad": lambda net, a, b, k: net.convs[3](F.pad(a, (1, 0, 0, 1)))[:, :, 1:, 1:],
    "number": lambda net, a, b, k: a + 1.5,
    "turn": lambda net, a, b, k: torch.cat((a[:, 2:], a.narrow(1, 0, 2)), 1),
    "detach": lambda net, a, b, k: a.detach(),
}  # fmt: skip


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_writes(data):
    torch.manual_seed(0)
    names, steps = st.sampled_from(["conv", "conv", "conv", "norm", "norm", *STEPS]), [("conv", 0, 0, 0)]
    for at in range(1, data.draw(st.integers(3, 14))):
        before = st.integers(max(0, at - 3), at)
        steps.append((data.draw(names), data.draw(before), data.draw(before), data.draw(st.integers(0, 3))))
    net, x = Steps(steps).eval(), torch.randn(2, 4, 5, 6)
    with torch.no_grad():
        try:
            net(x.clone())
        except RuntimeError:  # views of which parts are written to and read at once
            assume(condition=False)
        layout = data.draw(st.sampled_from(["channels last", "in order"]))
        fast = omniconv.accelerate(net, x, seconds=0, verify=False, layout=layout)
        assert fast.report.refused == ""
        for shape in [(2, 4, 5, 6)] * 4 + [(1, 4, 7, 4)]:
            x = torch.randn(shape)
            one, other = x.clone(), x.clone()
            try:
                ours = fast(one)
            except RuntimeError as error:  # as above, of views that lie otherwise
                assert "single memory location" in str(error)  # noqa: PT017
                return
            for new, old in zip((*ours, one), (*net(other), other), strict=True):
                assert_close(new, old)


class Writing(nn.Module):
    """Cannot be traced, and writes to what it is given."""

    def __init__(self):
        super().__init__()
        self.a = conv(3, 3)

    def forward(self, x):
        return self.a(x.mul_(2)) if x.sum() < 1e9 else x


def test_a_part_that_is_not_looked_into_may_write_to_what_it_is_given():
    def run(net, x):
        y = x * 1
        z = net.a(y)
        net.inner(y)
        return z + y

    net = Calls(run, a=conv(3, 3), inner=Writing()).eval()
    fast = accelerated(net, torch.randn(X), verify=False)
    assert fast.report.changes[0].steps == ("a",)
    assert_same(net, fast, torch.randn(X))
