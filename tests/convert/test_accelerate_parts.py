# SPDX-License-Identifier: Apache-2.0
"""Layers and blocks that compute something else than their class says: hooks, other forwards, computed weights."""

from __future__ import annotations

import types
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import omniconv
from convert.accelerated_steps import X, accelerated, assert_steps, block, conv, norm


def old(normalize):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        part = normalize(conv())
    part(torch.randn(X))  # after which the weight is a computed tensor
    return part


def hooked(part):
    part.register_forward_hook(lambda module, given, result: result * 2)
    return part


def expecting(part):
    part.register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    return part


def replaced(part):
    part.forward = types.MethodType(lambda self, x: type(self).forward(self, x) * 3, part)
    return part


class Own(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) if x.sum() > 1e9 else super().forward(x * 2)


class OwnLayer(omniconv.nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class Called(nn.Sequential):
    def __call__(self, x):
        return super().__call__(x) * 2


COMPUTED = "may compute something else than"
# A part of a network, and why it is as it was: a convolution or linear map by itself, or more that is not looked into.
PARTS = {
    "weight norm": (lambda: parametrizations.weight_norm(conv()), "left", "computed at each call"),
    "spectral norm": (lambda: parametrizations.spectral_norm(conv()), "left", "computed at each call"),
    "weight norm, as it was": (lambda: old(nn.utils.weight_norm), "left", "it has hooks"),
    "spectral norm, as it was": (lambda: old(nn.utils.spectral_norm), "left", "it has hooks"),
    "weight norm of a linear map": (lambda: parametrizations.weight_norm(nn.Linear(9, 9)), "left", COMPUTED),
    "a pruned linear map": (lambda: prune.l1_unstructured(nn.Linear(9, 9), "weight", 0.5), "left", "hooks or computed"),
    "a class of one's own": (lambda: Own(3, 3, 3), "left", COMPUTED),
    "a hook": (lambda: hooked(conv()), "left", "it has hooks"),
    "another forward": (lambda: replaced(conv()), "left", "its forward was replaced"),
    "a hook of several": (lambda: hooked(block()), "opaque", "it has hooks"),
    "a hook before several": (lambda: expecting(block()), "opaque", "it has hooks"),
    "another forward of several": (lambda: replaced(block()), "opaque", "its forward was replaced"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_not_what_its_class_says_is_kept(name):
    make, where, why = PARTS[name]
    net = nn.Sequential(conv(3, 3), nn.ReLU(), make(), nn.Tanh()).eval()
    x = torch.randn(X)
    fast = omniconv.accelerate(net, x, seconds=0, verify=False)
    assert fast.report.refused == ""
    assert why in getattr(fast.report, where)["2"]
    assert {"0", "1"} <= {step for entry in fast.report.changes for step in entry.steps}
    assert "2" not in {step for entry in fast.report.changes for step in entry.steps}
    assert_steps(net, fast)
    assert accelerated(net, x).report.changes


WHOLE = {
    "a hook": (lambda: hooked(block()), "it has hooks"),
    "a hook before": (lambda: expecting(block()), "it has hooks"),
    "another forward": (lambda: replaced(block()), "its forward was replaced on the instance"),
    "another call": (lambda: Called(conv(), norm(8)), "its class replaces `__call__`"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_whole_is_not_what_its_class_says(name):
    make, why = WHOLE[name]
    net = make().eval()
    fast = accelerated(net, torch.randn(X), verify=False)
    assert fast.report.opaque == {"": why}
    assert_steps(net, fast)


def test_a_part_with_a_call_of_its_own():
    net = nn.Sequential(conv(), Called(conv(8, 8), norm(8)), nn.ReLU()).eval()
    fast = accelerated(net, torch.randn(X), verify=False)
    assert [entry.steps for entry in fast.report.changes] == [("0",), ("1.0", "1.1", "mul", "2")]
    assert_steps(net, fast)


def test_a_hook_is_called_as_often_as_before_and_sees_tensors():
    seen = []
    net = nn.Sequential(block(), conv(8, 8)).eval()
    net[0].register_forward_hook(lambda module, given, result: seen.append(result))
    fast = accelerated(net, torch.randn(X))
    assert all(type(result) is torch.Tensor for result in seen)
    count = len(seen)
    fast(torch.randn(X))
    assert len(seen) == count + 1


def test_hooks_of_norms_and_activations_stay():
    net = nn.Sequential(conv(), hooked(norm(8)), conv(8, 8), hooked(nn.ReLU())).eval()
    fast = accelerated(net, torch.randn(X), verify=False)
    assert [entry.steps for entry in fast.report.changes] == [("0",), ("2",)]
    assert_steps(net, fast)


def test_a_layer_of_ones_own_that_extends_this_librarys():
    net = nn.Sequential(OwnLayer(3, 8, 3), nn.ReLU(), conv(8, 8), nn.ReLU()).eval()
    fast = accelerated(net, torch.randn(X), verify=False)
    assert [entry.steps for entry in fast.report.changes] == [("2", "3")]
    assert_steps(net, fast)


def test_layers_of_this_library_that_are_not_linear_in_their_weight_are_not_folded_into():
    light = omniconv.nn.LightweightConv1d(8, 3, heads=8, padding=1)
    net = nn.Sequential(light, norm(8, 1), nn.Conv1d(8, 8, 3), norm(8, 1)).eval()
    fast = accelerated(net, torch.randn(2, 8, 9), verify=False)
    assert [entry.steps for entry in fast.report.changes] == [("2", "3")]


def test_layers_of_this_library_with_a_norm_or_an_activation_of_their_own_are_kept():
    normed = omniconv.nn.PointwiseConv2d(3, 8, norm=lambda c: nn.GroupNorm(2, c, affine=False))
    net = nn.Sequential(
        normed, norm(8), omniconv.nn.PointwiseConv2d(8, 8, activation=nn.SiLU), norm(8), conv(8, 8)
    ).eval()
    fast = accelerated(net, torch.randn(X), verify=False)
    assert [entry.steps for entry in fast.report.changes] == [("4",)]
    assert_steps(net, fast)
