# SPDX-License-Identifier: Apache-2.0
"""What a network writes to, its inputs and results in between, holds the same numbers when it is accelerated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convert.accelerated_steps import Calls, X, accelerated, assert_same, conv
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
