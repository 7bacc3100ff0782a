# SPDX-License-Identifier: Apache-2.0
"""A network with denser maps says at every r-th position what the network says, borders and odd sizes included."""

from __future__ import annotations

import copy
import doctest
import pickle
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, assume, given, settings
from torch import nn

import omniconv
from convert.dilated_steps import CHANNELS, apart, assert_denser, networks, picture, spread, strides
from omniconv import models
from omniconv.convert.dilate import dilate
from omniconv.convert.dilation import windows
from omniconv.convert.dilation.denser import Denser
from tolerance import assert_close


def holds(examples, **options):
    """Whether random networks of convolutions, pools, pads and the like say the same."""

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), **options)
    @given(networks())
    def run(drawn):
        net, size, output_stride = drawn
        x = torch.randn(2, CHANNELS, *size, dtype=torch.float64)
        try:
            result = net(x)
        except (RuntimeError, ValueError):  # the input is too small
            assume(condition=False)
        assume(result.numel())
        total = strides(net, len(size))
        assert_denser(net, x, output_stride, tuple(t // o for t, o in zip(total, output_stride, strict=True)))

    run()


def test_random_networks():
    holds(300)


def changed(part):
    """``Window.spread`` with some numbers that are wrong."""
    whole = windows.Window.spread

    def spread(self, removed, step):
        right = whole(self, removed, step)
        return right if self.fixed is None else replace(right, **part(self, right))

    return spread


def before_alone(window, right):
    pairs = zip(window.fixed, right.padding, strict=True)
    return {"padding": tuple((more, after) for (_, after), (more, _) in pairs)}


BROKEN = {
    "dilation forgotten": (windows.Window, "spread", changed(lambda window, _: {"dilation": window.dilation})),
    "padding forgotten": (windows.Window, "spread", changed(lambda window, _: {"padding": window.fixed})),
    "padding behind forgotten": (windows.Window, "spread", changed(before_alone)),
    "stride kept": (Denser, "_step", lambda self, _, window: window.stride),
    "a rule asked about the denser map": (windows, "_sizes_before", lambda x, removed: x.shape[-len(removed) :]),
    "ceil_mode forgotten": (windows, "_with_last", lambda size, pair, span, stride: pair),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_comparison_notices(name, monkeypatch):
    monkeypatch.setattr(*BROKEN[name])
    with pytest.raises((AssertionError, RuntimeError)):
        holds(300, phases=[Phase.generate], report_multiple_bugs=False)


def test_positions_between():
    """Away from the borders they are what the network says of an input that was moved."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 5, (2, 3), 2)).double()
    x = picture(60, 60)
    dense = dilate(net, 2)(x)
    for down, right in ((1, 0), (3, 2)):
        moved = net(x[:, :, 2 * down :, 2 * right :])
        h, w = moved.shape[2:]
        assert_close(dense[:, :, down::4, right::4][:, :, :h, :w], moved)


def test_the_receptive_field_stays():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 5, 3, "valid"))
    x = torch.randn(1, 3, 96, 96)
    before, after = omniconv.receptive_field(net, x), omniconv.receptive_field(dilate(net, 2), x)
    assert (before.size, before.start) == (after.size, after.start)
    assert (before.stride, after.stride) == ((12, 12), (2, 2))


def test_its_own_stride_changes_nothing():
    model = spread(models.create("resnet50", num_classes=5))
    same, x = dilate(model, 32, head="keep"), picture(64, 70)
    assert str(same.layer4) == str(model.layer4)
    assert torch.equal(same(x), model(x))
    assert dilate(model, 32)(x).shape == (1, 5, 2, 3)


def test_the_model_stays_as_it_was():
    model = models.create("mobilenet_v2", num_classes=5)
    model.features[0].eval()
    before = str(model), [m.training for m in model.modules()], [p.data_ptr() for p in model.parameters()]
    dense = dilate(model, 8)
    assert before == (str(model), [m.training for m in model.modules()], [p.data_ptr() for p in model.parameters()])
    assert [m.training for m in dense.modules()] == before[1]
    assert not {p.data_ptr() for p in dense.parameters()} & set(before[2])
    dense(torch.randn(2, 3, 33, 33)).sum().backward()
    assert all(p.grad is not None for p in dense.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_it_is_copied_and_stored():
    rules = [omniconv.nn.Conv2d(3, 4, 3, 2, "tf_same"), nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(2)]
    net = nn.Sequential(*rules, nn.Conv2d(4, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    dense, x = dilate(net.double(), 1), picture(31, 38)
    assert_close(apart(dense(x), (16, 16)).mean((2, 3)), net(x))
    for again in (copy.deepcopy(dense), pickle.loads(pickle.dumps(dense))):  # noqa: S301
        assert list(again.state_dict()) == list(net.state_dict())
        assert torch.equal(again(x), dense(x))
    assert_close(torch.export.export(dense, (x,)).module()(x), dense(x))


def test_what_the_forward_leaves_out_keeps_its_names():
    class WithSpare(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.spare = nn.Conv2d(3, 4, 3, 2), nn.Linear(2, 2)
            self.register_buffer("count", torch.zeros(1))
            self.scale = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x):
            return self.scale * self.conv(x)

    net = WithSpare()
    assert list(dilate(net, 1).state_dict()) == list(net.state_dict())


def test_axes_of_their_own():
    net = nn.Sequential(nn.Conv3d(3, 4, 3, (1, 2, 2), 1), nn.MaxPool3d((2, 3, 3), (2, 2, 1), (0, 1, 1))).double()
    x = torch.randn(1, 3, 9, 11, 12, dtype=torch.float64)
    for wanted, removed in (((1, 2, 2), (2, 2, 1)), (2, (1, 2, 1)), (4, (1, 1, 1)), (1, (2, 4, 2))):
        assert_denser(net, x, wanted, removed)


def test_part_of_a_stride():
    net = nn.Sequential(nn.Conv1d(3, 4, 4, 4), nn.Conv1d(4, 4, 7, 6, 3)).double()
    x = torch.randn(1, 3, 203, dtype=torch.float64)
    for output_stride in (1, 2, 3, 4, 6, 8, 12, 24):
        dense = assert_denser(net, x, output_stride, (24 // output_stride,))
        assert omniconv.receptive_field(dilate(net, output_stride), x).stride == (output_stride,)
    assert dense.shape == net(x).shape


def test_channels_last_and_shuffled():
    class Odd(nn.Module):
        """Moves its dims about, and joins, cuts and names channels in ways that leave positions alone."""

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1, groups=2)
            self.norm, self.linear, self.gate = nn.LayerNorm(8), nn.Linear(8, 8), nn.Parameter(torch.rand(8))

        def forward(self, x):
            x = self.first(x)
            x = self.linear(self.norm(x.permute(0, 2, 3, 1)) * self.gate).movedim(-1, 1)
            n, c, h, w = x.size()
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            left, right = x.chunk(2, dim=1)
            x = torch.cat([left.softmax(1) * x.mean(1, keepdim=True), right], 1)
            x = self.second(x)
            top = x.max(1, keepdim=True)[0].sigmoid()
            return x[:, 1:] * top + x.shape[1]

    assert_denser(Odd().double(), picture(21, 26), 1, (4, 4))


def test_arguments_by_name():
    class ByName(nn.Module):
        """Calls functions as few do, and asks for what has nothing to do with positions."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 3, 4, 3))

        def forward(self, x, scale=None):
            x = F.conv2d(input=x, weight=self.weight, stride=2, padding=(1, 0))
            x = F.conv2d(input=F.pad(x, pad=(1, 2)), weight=self.weight, padding="same")
            x = torch.maximum(F.max_pool2d(input=x, kernel_size=2, padding=1, stride=2), torch.tensor(0.0))
            x = torch.max(x, F.avg_pool2d(input=x, kernel_size=3, stride=1, padding=1)) * x.ndim / x.dim()
            return F.pad(F.conv2d(x, weight=self.weight, stride=(1, 2)).to(x.dtype), pad=(0, 0, 1, 1), value=2.0)

    for output_stride in (1, 2, (4, 2)):
        removed = (4, 8) if output_stride == 1 else (2, 4) if output_stride == 2 else (1, 4)
        assert_denser(ByName().double(), picture(33, 46), output_stride, removed)


def test_a_mean_over_a_window_of_all():
    class Older(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 5)

        def forward(self, x):
            x = self.conv(x)
            x = x * F.avg_pool2d(x, (x.size(2), x.size(3))).sigmoid()
            return self.fc(F.avg_pool2d(x, kernel_size=x.shape[2:]).view(x.size(0), -1))

    net, x = Older().double(), picture(13, 18, batch=2)
    assert_close(apart(dilate(net, 1, means="sampled")(x), (2, 2)).mean((2, 3)), net(x))


@pytest.mark.parametrize(
    "tail",
    [
        lambda: [nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 6), nn.Linear(6, 5)],
        lambda: [nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1), nn.Identity(), nn.Flatten()],
        lambda: [nn.AdaptiveAvgPool2d(1), omniconv.nn.PointwiseConv2d(4, 5), nn.Flatten(1), omniconv.nn.Linear(5, 5)],
    ],
)
def test_heads(tail):
    net = spread(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), *tail()))
    x = picture(9, 14, batch=2)
    dense = dilate(net, 1)
    assert dense(x).shape == (2, 5, 9, 14)
    assert_close(apart(dense(x), (2, 2)).mean((2, 3)), net(x))
    assert_close(dense(x).mean((2, 3)), dilate(net, 1, head="keep")(x))
    assert_close(apart(dilate(net, 1, head="drop")(x), (2, 2)), net[:2](x))


def test_several_results():
    class Stages(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
            self.fc = nn.Linear(4, 5)

        def forward(self, x):
            one = self.one(x)
            two = self.two(torch.relu(one))
            return {"maps": [one, two], "scores": self.fc(torch.flatten(two.mean([-2, -1], keepdim=True), 1) / 2)}

    net, x = Stages().double(), picture(13, 18)
    expected, found = net(x), dilate(net, 2)(x)
    assert torch.equal(found["maps"][0], expected["maps"][0])
    assert_close(apart(found["maps"][1], (2, 2)), expected["maps"][1])
    assert_close(apart(found["scores"], (2, 2)).mean((2, 3)), expected["scores"])


def test_a_layer_used_twice():
    shared = nn.Conv2d(4, 4, 3, 1, 1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), shared, nn.ReLU(), shared, nn.Sequential(shared)).double()
    assert_denser(net, picture(9, 12), 1, (2, 2))


def test_hooks_and_parametrizations_stay():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1), omniconv.nn.Conv2d(4, 4, 3, 1, 1)).double()
    nn.utils.parametrizations.weight_norm(net[1])
    net[2].register_forward_hook(lambda module, args, result: 2 * result)
    net[2].nickname = "last"
    assert_denser(net, picture(9, 12), 1, (2, 2))
    last = dilate(net, 1).get_submodule("2")
    assert (last.nickname, last.dilation) == ("last", (2, 2))


def test_the_example():
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder(recurse=False).find(dilate, globs=vars(sys.modules[dilate.__module__]).copy()):
        runner.run(test)
    assert runner.summarize().attempted > 3
    assert runner.summarize().failed == 0
