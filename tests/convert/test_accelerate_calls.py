# SPDX-License-Identifier: Apache-2.0
"""How an accelerated network is called, and what it returns: as the network that it was made from."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import omniconv
from convert.accelerated_steps import Calls, CallsTwo, X, accelerated, assert_same, conv, norm
from omniconv.convert.accelerate.proof import distance
from tolerance import assert_close


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.conv, self.norm = nn.Embedding(20, 8), nn.Conv1d(8, 6, 3, padding=1), norm(6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, tokens, mask=None):
        x = self.norm(self.conv(self.embedding(tokens).transpose(1, 2))).relu()
        x = x if mask is None else x.masked_fill(mask.unsqueeze(1), 0)
        return self.head(x.mean(-1))


def test_numbers_of_tokens():
    net, tokens = Tokens().eval(), torch.randint(0, 20, (2, 15))
    fast = accelerated(net, tokens, changes=["FollowedConv", "Linear"])
    for shape in [(3, 15), (2, 22), (1, 3)]:
        assert_same(net, fast, torch.randint(0, 20, shape))


def test_an_input_that_may_be_left_out():
    net, tokens, mask = Tokens().eval(), torch.randint(0, 20, (2, 15)), torch.rand(2, 15) > 0.5
    without, masked = accelerated(net, tokens), accelerated(net, tokens, mask)
    assert_same(net, without, tokens, None)
    assert_same(net, without, tokens=tokens, mask=None)
    assert_same(net, masked, tokens, mask=~mask)
    with pytest.raises(
        ValueError, match=r"`mask` \(=Tensor\) must be None, as in the example .* an example that has it"
    ):
        without(tokens, mask)
    for call in (lambda: masked(tokens), lambda: masked(tokens, None)):
        with pytest.raises(
            ValueError, match=r"`mask` \(=None\) must be given, as in the example .* that leaves it out"
        ):
            call()


class Skipping(nn.Module):
    """Calls a part with and without what may be left out."""

    def __init__(self):
        super().__init__()
        self.part = CallsTwo(lambda net, x, other: net.a(x) if other is None else net.a(x) + other, a=conv(3, 3))

    def forward(self, x):
        return self.part(x, self.part(x)) if x.sum() < 1e9 else x


def test_a_part_that_is_called_with_and_without_an_input_is_not_changed_for_one_of_them():
    net = Skipping().eval()
    fast = omniconv.accelerate(net, torch.randn(X), seconds=0)
    assert "must be None, as in the example" in fast.report.refused
    assert_same(net, fast, torch.randn(X))


def test_several_inputs_of_which_one_has_no_batch_of_its_own():
    net = CallsTwo(lambda net, x, other: F.relu(net.a(x) + other), a=conv(3, 8, 1)).eval()
    fast = accelerated(net, torch.randn(1, 3, 6, 6), torch.randn(1, 8, 6, 6))
    for batches in [(1, 1), (4, 1), (1, 4), (4, 4)]:
        assert_same(net, fast, *(torch.randn(n, c, 6, 6) for n, c in zip(batches, (3, 8), strict=True)))
    assert_same(net, fast, torch.randn(2, 3, 5, 5), torch.randn(8, 1, 1))


class AnyNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, *pictures, scale=1.0, **more):
        return self.a(pictures[0]) * scale + self.b(pictures[1]) * more["shift"]


def test_any_number_of_inputs():
    net, x = AnyNumber().eval(), torch.randn(X)
    fast = omniconv.accelerate(AnyFixed(net).eval(), {"x": x, "shift": 2.0}, seconds=0)
    assert fast.report.refused == ""
    assert_same(AnyFixed(net), fast, x, shift=3.0)


class AnyFixed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, shift):
        return self.inner(x, x * 2, shift=shift)


def test_inputs_by_place_of_any_number():
    class Places(AnyNumber):
        def forward(self, *pictures):
            return self.a(pictures[0]) + self.b(pictures[1])

    net = Places().eval()
    assert_same(net, accelerated(net, torch.randn(X), torch.randn(X)), torch.randn(X), torch.randn(X))


class Options(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = conv()

    def forward(self, picture, scale: float = 2.0, *, twice: bool = False):
        y = self.a(picture) * scale
        return y * 2 if twice else y


@pytest.mark.parametrize("example", ["a tensor", "a tuple", "a list", "a dictionary", "all of it"])
def test_forms_of_the_example(example):
    net, x = Options().eval(), torch.randn(X)
    forms = {"a tensor": x, "a tuple": (x, 3.0), "a list": [x], "a dictionary": {"picture": x}}
    given = forms | {"all of it": {"scale": 0.5, "picture": x, "twice": True}}
    fast = omniconv.accelerate(net, given[example], seconds=0)
    assert fast.report.refused == ""
    assert "its control flow" in fast.report.opaque[""]  # `twice` may come otherwise
    for options in ({}, {"scale": 4}, {"twice": True, "scale": 0.1}):
        assert_same(net, fast, x, **options)


def test_pictures_of_bytes():
    net = Calls(lambda net, x: net.b(net.a(x.float() / 255)), a=conv(), b=norm(8)).eval()
    x = torch.randint(0, 255, X, dtype=torch.uint8)
    fast = omniconv.accelerate(net, x, seconds=0)
    assert [entry.layer for entry in fast.report.changes] == ["PrepackedConv"]
    assert_close(fast(x), net(x))


def test_parts_of_several_types():
    net = Calls(
        lambda net, x: net.b(net.a(x).bfloat16()).float() + net.c(x), a=conv(), b=conv(8, 8).bfloat16(), c=conv()
    )
    x = torch.randn(X)
    fast = omniconv.accelerate(net.eval(), x, seconds=0)
    assert len(fast.report.changes) == 3
    assert fast.report.whole["the inputs given"].theirs > 1e-4  # beside float64, and not beside bfloat16
    assert_close(fast(x), net(x), dtype=torch.bfloat16)


def test_sizes_that_follow_the_input():
    def run(net, x):
        n, c, h, _ = x.shape
        y = F.interpolate(net.a(x), size=x.shape[2:], mode="nearest")
        y = y.view(n, -1, h * (y.shape[3] // 1)) + torch.arange(x.shape[3]).repeat(h)
        return y.reshape(n, 8, *x.shape[2:]).chunk(c, 1)[0] * y.shape[-1] ** 0.5

    net = Calls(run, a=conv()).eval()
    fast = omniconv.accelerate(net, torch.randn(X), seconds=0)
    for shape in [X, X, X, X, (1, 3, 8, 5), (4, 3, 12, 12)]:
        assert_same(net, fast, torch.randn(shape))


DYNAMIC = {
    "chosen samples": lambda net, x: net.a(x)[net.a(x).mean((1, 2, 3)) > 0].flatten(1).sum(1),
    "chosen numbers": lambda net, x: (y := net.a(x)).masked_select(y > 0).reshape(-1, 1).sum(0),
    "places": lambda net, x: (i := torch.nonzero(net.a(x) > 0)).reshape(i.shape[0], 2, 2).to(x.dtype).sum(0),
    "a number that is read": lambda net, x: net.a(x) * (x > 0).sum().item(),
    "repeated": lambda net, x: torch.repeat_interleave(net.a(x), (x[:, 0, 0, 0] > 0) + 1, dim=0).flatten(1).mean(1),
}


@pytest.mark.parametrize("name", DYNAMIC)
def test_results_whose_sizes_follow_numbers(name):
    net = Calls(DYNAMIC[name], a=conv()).eval()
    fast = omniconv.accelerate(net, torch.randn(X), seconds=0)
    assert fast.report.refused == ""
    with torch.no_grad():
        for _ in range(12):
            x = torch.randn(X) + torch.randn(2, 1, 1, 1)
            assert_close(fast(x), net(x))


class Pair(NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


@dataclass(slots=True)
class Found:
    picture: torch.Tensor
    count: int


class Thing:
    def __init__(self, inside):
        self.inside = inside


RESULTS = {
    "a dictionary": lambda net, x: {"a": net.a(x), "b": {"c": net.a(x).relu()}},
    "a list": lambda net, x: [net.a(x), 3, None, "word"],
    "a tuple": lambda net, x: (net.a(x), (net.a(x).sum(),)),
    "a named tuple": lambda net, x: Pair(net.a(x), x),
    "the input and a view": lambda net, x: (x, x[:, :1], net.a(x)),
    "a shape": lambda net, x: (net.a(x), x.shape),
}


@pytest.mark.parametrize("layout", ["channels last", "in order"])
@pytest.mark.parametrize("name", RESULTS)
def test_results_of_every_form(name, layout):
    net, x = Calls(RESULTS[name], a=conv()).eval(), torch.randn(X)
    fast = accelerated(net, x, layout=layout)
    assert fast.report.opaque == {}
    assert type(fast(x)) is type(net(x))
    assert_same(net, fast, torch.randn(3, 3, 8, 5))


@pytest.mark.parametrize("kind", ["a record", "an object"])
def test_results_in_objects_are_compared_too(kind):
    make = {"a record": lambda y: Found(y, 3), "an object": lambda y: Thing([y])}[kind]
    net, x = Calls(lambda net, x: make(net.a(x)), a=conv()).eval(), torch.randn(X)
    fast = omniconv.accelerate(net, x, seconds=0)
    assert fast.report.refused == ""
    assert fast.report.whole["the inputs given"].theirs > 0
    y = net.a(x).detach()
    exact = y.double()
    assert distance(make(exact), make(y), make(y)).holds
    assert not distance(make(exact), make(y), make(y + 1)).holds
    assert distance(make(exact), make(y), make(y + 1)).ours > 0.9


def test_distances():
    y = torch.randn(5)
    assert not distance(y, y, y * torch.tensor([1, 1, 1, 1, float("nan")])).holds
    assert distance(
        y.new_full((2,), float("nan")), y.new_full((2,), float("nan")), y.new_full((2,), float("nan"))
    ).holds
    assert not distance(torch.arange(3), torch.arange(3), torch.arange(3) + 1).holds
    assert not distance([1.0], [1.0], [1.5]).holds
    for other in (y.double(), y[:4], [y]):
        with pytest.raises(ValueError, match=r"it returns .* where the network returns"):
            distance(y.double(), y, other)


def test_outputs_lie_in_order():
    net = Calls(lambda net, x: (net.a(x), net.b(net.a(x))), a=conv(), b=nn.Conv2d(8, 8, 1)).eval()
    for layout in ("channels last", "in order"):
        fast = accelerated(net, torch.randn(X), layout=layout)
        assert all(y.is_contiguous() for y in fast(torch.randn(X)))
    net = Calls(lambda net, x: net.b(net.a(x)).view(x.shape[0], -1), a=conv(), b=norm(8)).eval()
    for layout in ("channels last", "in order"):
        assert accelerated(net, torch.randn(X), layout=layout).report.layout == layout


def test_what_is_returned_may_be_written_to():
    net = Calls(
        lambda net, x: (net.a(x), net.p * 2, torch.ones(2), net.p), a=conv(), p=nn.Parameter(torch.ones(3))
    ).eval()
    fast = accelerated(net, torch.randn(X))
    with torch.no_grad():
        for _ in range(5):
            for y, constant in zip(fast(torch.randn(X)), (None, 2, 1, 1), strict=True):
                assert constant is None or bool((y == constant).all())
                y.zero_()


def test_results_stay_as_they_were():
    net = nn.Sequential(conv(), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 1)).eval()
    fast, pairs = accelerated(net, torch.randn(X)), []
    with torch.no_grad():
        for _ in range(6):
            x = torch.randn(X)
            pairs.append((fast(x), net(x)))
    for ours, theirs in pairs:
        assert_close(ours, theirs)


WRONG = {
    "no module": ("net", torch.randn(X), {}, TypeError, r"`model` \(=str\) must be an nn.Module"),
    "a layout": (
        conv(),
        torch.randn(X),
        {"layout": "NHWC"},
        ValueError,
        r"`layout` \(='NHWC'\) must be one of 'auto', ",
    ),
    "other channels": (
        conv(),
        torch.randn(2, 4, 7, 9),
        {},
        ValueError,
        "`example_input` is not what the model takes: Run",
    ),
    "no input": (conv(), (), {}, ValueError, "is not what the model takes: TypeError: .*missing 1 required positional"),
    "two inputs": (conv(), (torch.randn(X),) * 2, {}, ValueError, "is not what the model takes: TypeError"),
    "another name": (conv(), {"x": torch.randn(X)}, {}, ValueError, "is not what the model takes: TypeError"),
    "words": (conv(), "picture", {}, ValueError, "is not what the model takes: TypeError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses(name):
    model, example, options, error, text = WRONG[name]
    with pytest.raises(error, match=text):
        omniconv.accelerate(model, example, seconds=0, **options)


def test_a_norm_that_takes_positions_for_channels():
    net = nn.Sequential(nn.Conv1d(3, 8, 3), norm(8, 1)).eval()
    fast = accelerated(net, torch.randn(3, 10), verify=False)  # a sample of 8 positions, or 8 samples of one
    assert [entry.steps for entry in fast.report.changes] == [("0",)]


def test_axes_that_a_norm_or_a_constant_counts():
    net = nn.Sequential(nn.Conv1d(3, 8, 3), norm(8, 1)).eval()
    fast = accelerated(net, torch.randn(2, 3, 10))
    with pytest.raises(ValueError, match="an input of 2 axes must have 3 here"):
        fast(torch.randn(3, 10))  # of which the network takes the 8 positions for channels
    net = Calls(lambda net, x: net.a(x) * net.p, a=nn.Linear(5, 8), p=nn.Parameter(torch.randn(1, 8))).eval()
    fast = pickle.loads(pickle.dumps(accelerated(net.a, torch.randn(4, 5))))  # noqa: S301
    assert_same(net.a, fast, torch.randn(5))
    fast = accelerated(net, torch.randn(4, 5))
    assert_same(net, fast, torch.randn(2, 3, 5))
    with pytest.raises(ValueError, match="an input of 1 axes must have 2 here"):
        fast(torch.randn(5))
    net = nn.Sequential(nn.Linear(5, 8), norm(8, 1)).eval()
    with pytest.raises(ValueError, match="an input of 3 axes must have 2 here"):
        accelerated(net, torch.randn(4, 5))(torch.randn(2, 8, 5))  # of which the network normalises axis 1


class Meeting(nn.Module):
    """A sum whose terms have one shape for the example, and are broadcast for other inputs."""

    def __init__(self, stride, kernel=1):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(4, 4, kernel, stride, kernel // 2), nn.BatchNorm2d(4))

    def forward(self, x):
        return (self.conv(x) + x).relu()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_sum_is_broadcast_where_the_example_was_not(stride, kernel):
    net = Meeting(stride, kernel).eval()
    fast = omniconv.accelerate(net, torch.randn(2, 4, 1, 1), seconds=0, verify=False)
    assert len(fast.report.changes) == 1
    for shape in [(2, 4, 1, 1), (3, 4, 2, 2), (2, 4, 1, 1)] * 4:
        x = torch.randn(shape)
        with torch.no_grad():
            assert_close(fast(x), net(x))


class Scored(nn.Module):
    """Pointwise behind a mean, added to a map: the output is broadcast."""

    def __init__(self):
        super().__init__()
        self.linear, self.across = nn.Linear(4, 4), nn.Conv2d(4, 4, 1)

    def forward(self, x, y):
        return nn.functional.silu(self.linear(x) + x * 1.0), self.across(y.mean((2, 3), keepdim=True)) + y * 1.0


def test_outputs_are_broadcast_to_what_is_added():
    net = Scored().eval()
    fast = omniconv.accelerate(net, (torch.randn(3, 4), torch.randn(1, 4, 1, 1)), seconds=0, verify=False)
    for size in (1, 3):
        given = torch.randn(3, 4), torch.randn(2, 4, size, size)
        with torch.no_grad():
            for found, right in zip(fast(*given), net(*given), strict=True):
                assert_close(found, right)


@pytest.mark.parametrize("layout", ["in order", "channels last"])
def test_outputs_lie_as_inputs_do(layout):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    x = torch.randn(2, 3, 6, 5)
    last = x.contiguous(memory_format=torch.channels_last)
    for example in (x, last):
        fast = omniconv.accelerate(net, example, seconds=0, layout=layout)
        with torch.no_grad():
            for _ in range(4):
                assert_close(fast(x).view(2, -1), net(x).view(2, -1))
                assert_close(fast(last), net(last))
