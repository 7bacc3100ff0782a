# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds of single layers and of whole networks, exact; and that a wrong counter would be noticed."""

from __future__ import annotations

import warnings
from dataclasses import replace
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import omniconv
from analysis import networks
from omniconv.analysis.profiling import watch


class Functional(nn.Module):
    """A convolution called by function on a parameter of the module."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(32, 16, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)

    def forward(self, x):
        return self.conv(self.conv(x))


class PlainLightweight(nn.Module):
    """Eight heads of softmax-normalised kernels, spread over the channels, in torch's own operators."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 1, 7))

    def forward(self, x):
        weight = self.weight.softmax(-1).repeat_interleave(8, 0)
        return F.conv1d(x, weight, padding=3, groups=64)


class PlainDynamic(nn.Module):
    """One kernel per head and position, predicted, applied by unfolding and a batched product."""

    def __init__(self):
        super().__init__()
        self.predict = nn.Linear(64, 56, bias=False)

    def forward(self, x):
        n, c, length = x.shape
        weight = self.predict(x.transpose(1, 2)).view(n * length * 8, 7, 1).softmax(1)
        windows = F.pad(x, (3, 3)).unfold(2, 7, 1).reshape(n, 8, 8, length, 7)
        windows = windows.permute(0, 3, 1, 2, 4).reshape(n * length * 8, 8, 7)
        return torch.bmm(windows, weight).view(n, length, c).transpose(1, 2)


def conv(*args, **kwargs):
    return nn.Conv2d(*args, bias=False, **kwargs)


# name: module, input, MACs
LAYERS = {
    "conv1d with bias": (lambda: nn.Conv1d(16, 32, 5), (1, 16, 68), 163_840),
    "conv2d": (lambda: conv(16, 32, 3, padding=1), (1, 16, 20, 24), 2_211_840),
    "conv2d with bias": (lambda: nn.Conv2d(16, 32, 3, padding=1), (1, 16, 20, 24), 2_211_840),
    "batch 4": (lambda: conv(16, 32, 3, padding=1), (4, 16, 20, 24), 8_847_360),
    "k(1,5) s(2,1) p(0,2)": (lambda: conv(16, 32, (1, 5), (2, 1), (0, 2)), (1, 16, 20, 24), 614_400),
    "conv3d": (lambda: nn.Conv3d(8, 16, 3, padding=1, bias=False), (1, 8, 6, 10, 12), 2_488_320),
    "grouped": (lambda: conv(16, 32, 3, padding=1, groups=4), (1, 16, 20, 24), 552_960),
    "dilated": (lambda: conv(16, 32, 3, padding=2, dilation=2), (1, 16, 20, 24), 2_211_840),
    "same, k4 d3": (lambda: conv(16, 32, 4, padding="same", dilation=3), (1, 16, 20, 24), 3_932_160),
    "reflect": (lambda: conv(16, 32, 3, padding=1, padding_mode="reflect"), (1, 16, 20, 24), 2_211_840),
    "depthwise": (lambda: conv(16, 48, 3, padding=1, groups=16), (1, 16, 20, 24), 207_360),
    "depthwise separable": (
        lambda: nn.Sequential(conv(16, 16, 3, padding=1, groups=16), conv(16, 32, 1)),
        (1, 16, 20, 24),
        314_880,
    ),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(16, 32, 3, 2, 1, 1, bias=False),
        (1, 16, 10, 12),
        552_960,
    ),
    "transposed 2d, 4 groups": (lambda: nn.ConvTranspose2d(16, 32, 4, 2, 1, groups=4), (1, 16, 10, 12), 245_760),
    "transposed 1d": (lambda: nn.ConvTranspose1d(16, 8, 8, 4, 2), (1, 16, 100), 102_400),
    "transposed 3d": (lambda: nn.ConvTranspose3d(8, 4, 2, 2), (1, 8, 3, 4, 5), 15_360),
    "by function": (Functional, (1, 16, 20, 24), 2_211_840),
    "called twice": (Twice, (1, 16, 20, 24), 2_211_840),
    "lightweight in torch": (PlainLightweight, (1, 64, 100), 44_800),
    "dynamic in torch": (PlainDynamic, (1, 64, 100), 403_200),
    "lazy": (lambda: nn.LazyConv2d(32, 3, padding=1), (1, 16, 20, 24), 2_211_840),
    "unbatched": (lambda: conv(16, 32, 3, padding=1), (16, 20, 24), 2_211_840),
    "meta": (lambda: conv(16, 32, 3, padding=1, device="meta"), (1, 16, 20, 24), 2_211_840),
}

# The same of this library, whose calls are seen as problems.
OURS = {
    "conv2d": (lambda: omniconv.nn.Conv2d(16, 32, 3, padding=1), (1, 16, 20, 24), 2_211_840),
    "same, k4 d3": (lambda: omniconv.nn.Conv2d(16, 32, 4, padding="same", dilation=3), (1, 16, 20, 24), 3_932_160),
    "unbatched": (lambda: omniconv.nn.Conv2d(16, 32, 3, padding=1), (16, 20, 24), 2_211_840),
    "circular": (
        lambda: omniconv.nn.Conv2d(16, 32, 3, padding=1, padding_mode="circular"),
        (1, 16, 20, 24),
        2_211_840,
    ),
    "transposed": (lambda: omniconv.nn.ConvTranspose2d(16, 32, 3, 2, 1, 1), (1, 16, 10, 12), 552_960),
    "depthwise separable": (
        lambda: omniconv.nn.DepthwiseSeparableConv2d(16, 32, 3, padding=1),
        (1, 16, 20, 24),
        314_880,
    ),
    "the same in two calls": (
        lambda: omniconv.nn.DepthwiseSeparableConv2d(16, 32, 3, padding=1, mid_activation=nn.ReLU),
        (1, 16, 20, 24),
        314_880,
    ),
    "spatially separable": (
        lambda: omniconv.nn.SpatialSeparableConv2d(16, 32, 3, padding=1),
        (1, 16, 20, 24),
        480 * 3 * (16 * 16 + 16 * 32),
    ),
    "deformable": (lambda: omniconv.nn.DeformableConv2d(16, 32, 3, padding=1), (1, 16, 20, 24), 3_456_000),
    "deformable with mask": (
        lambda: omniconv.nn.DeformableConv2d(16, 32, 3, padding=1, mask=True),
        (1, 16, 20, 24),
        4_078_080,
    ),
    "deformable, offsets given": (
        lambda: omniconv.nn.DeformConv2d(16, 32, 3, padding=1),
        ((1, 16, 20, 24), (1, 18, 20, 24)),
        2_211_840,
    ),
    "lightweight": (lambda: omniconv.nn.LightweightConv1d(64, 7, heads=8), (1, 64, 100), 44_800),
    "dynamic": (lambda: omniconv.nn.DynamicConv1d(64, 7, heads=8), (1, 64, 100), 403_200),
}

NETWORKS = {
    "mobilenet_v2": (224, 300_774_272, 3_504_872),
    "efficientnet_b0": (224, 385_814_752, 5_288_548),
    "shufflenet_v2": (224, 144_907_992, 2_278_604),
    "convnext_tiny": (224, 4_455_531_264, None),
    "autoencoder": (32, 1_400_832, 47_107),
}


def counted(make, size):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same'")
        warnings.filterwarnings("ignore", message="Lazy modules are a new feature")
        return omniconv.profile(make(), size, receptive_field=False)


def wrong(layers=LAYERS):
    """The layers whose count is not the exact one."""
    return {name for name, (make, size, macs) in layers.items() if counted(make, size).macs != macs}


@pytest.mark.parametrize("name", LAYERS)
def test_torch_layers(name):
    make, size, macs = LAYERS[name]
    found = counted(make, size)
    assert found.macs == macs
    assert found.status == "complete"
    assert found.params == (4640 if name == "lazy" else sum(p.numel() for p in make().parameters()))


@pytest.mark.parametrize("name", OURS)
def test_own_layers(name):
    make, size, macs = OURS[name]
    found = counted(make, size)
    assert found.macs == macs
    assert found.status == "complete"
    assert found.not_run == ()
    assert found.params == sum(p.numel() for p in make().parameters()) == sum(row.params for row in found.rows)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    size, macs, params = NETWORKS[name]
    with torch.device("meta"):
        model = getattr(networks, name)()
    found = omniconv.profile(model, (1, 3, size, size), receptive_field=False)
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, size, size, device="meta"))
    assert found.macs == macs == counter.get_total_flops() // 2
    assert found.status == "complete"
    assert found.params == params or params is None
    assert sum(row.params for row in found.rows) == found.params


def on_outputs(problem, itemsize):
    work = REAL(problem, itemsize)
    if not problem.transposed:
        return work
    return replace(work, macs=work.macs * prod(problem.out_size) // prod(problem.in_size))


def without_groups(problem, itemsize):
    work = REAL(problem, itemsize)
    return replace(work, macs=work.macs * problem.groups)


def one_image(problem, itemsize):
    work = REAL(problem, itemsize)
    return replace(work, macs=work.macs // problem.batch)


REAL = watch.work_of_problem
TRANSPOSED = {name for name in LAYERS if name.startswith("transposed")}
BROKEN = {
    "transposed on outputs": (on_outputs, TRANSPOSED),
    "groups ignored": (
        without_groups,
        {"grouped", "depthwise", "depthwise separable", "transposed 2d, 4 groups", "lightweight in torch"},
    ),
    "batch ignored": (one_image, {"batch 4"}),
}


@pytest.mark.pitfall(44)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_counter_is_noticed(monkeypatch, name):
    broken, caught = BROKEN[name]
    monkeypatch.setattr(watch, "work_of_problem", broken)
    assert wrong() == caught


def test_a_counter_that_misses_what_modules_do_not_show_is_noticed(monkeypatch):
    see = watch.Watch._see

    def convolution_modules_only(self, call, args, kwargs):
        if "Conv" in self._stack[-1].kind:
            see(self, call, args, kwargs)

    monkeypatch.setattr(watch.Watch, "_see", convolution_modules_only)
    assert wrong() == {"by function", "lightweight in torch", "dynamic in torch"}


def products_by_ones(model, x):
    """Multiply-adds of a model of convolutions without padding and linear layers: with ones in every input and weight
    a sum over outputs is the number of products."""
    total = 0

    def count(module, args, output):
        nonlocal total
        kind = {nn.Linear: F.linear, nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}.get(type(module))
        weight = torch.ones_like(module.weight, dtype=torch.float64)
        ones = torch.ones(args[0].shape, dtype=torch.float64)
        if kind is F.linear:
            y = kind(ones, weight)
        elif kind is not None:
            y = kind(ones, weight, None, module.stride, 0, module.dilation, module.groups)
        else:
            transposed = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[weight.dim() - 2]
            options = (module.stride, 0, module.output_padding, module.groups, module.dilation)
            y = transposed(ones, weight, None, *options)
        total += int(y.sum())

    handles = [m.register_forward_hook(count) for m in model.modules() if hasattr(m, "weight")]
    model(x)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_against_counted_products(seed):
    draw = torch.Generator().manual_seed(seed)

    def pick(*options):
        return options[int(torch.randint(len(options), (), generator=draw))]

    dim = pick(1, 2, 3)
    straight, back = getattr(nn, f"Conv{dim}d"), getattr(nn, f"ConvTranspose{dim}d")
    layers, c = [], 4
    for _ in range(4):
        groups = pick(1, 2, 4)
        o, k, s, d = 4 * pick(1, 2, 3), pick(1, 2, 3), pick(1, 2), pick(1, 2)
        if pick(True, False):
            layers.append(straight(c, o, k, s, 0, d, groups, bias=pick(True, False)))
        else:
            layers.append(back(c, o, k, s, 0, s - 1, groups, pick(True, False), d))
        layers.append(nn.ReLU())
        c = o
    model = nn.Sequential(*layers, nn.Flatten(2), nn.AdaptiveAvgPool1d(3), nn.Linear(3, 5), nn.Linear(5, 2, bias=False))
    x = torch.randn(pick(1, 2), 4, *(24 for _ in range(dim)) if dim < 3 else (17, 18, 19))
    assert omniconv.profile(model, x, receptive_field=False).macs == products_by_ones(model, x)
