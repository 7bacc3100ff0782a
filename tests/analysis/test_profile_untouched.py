# SPDX-License-Identifier: Apache-2.0
"""A profile leaves everything as it was, also where the model fails, writes to itself, or draws random numbers."""

from __future__ import annotations

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

import omniconv
from omniconv.core.observe import current_listener

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_always_called")


def profiled(model, input, **options):
    return omniconv.profile(model, input, **({"receptive_field": False} | options))


def state(model):
    """Everything about a model that a profile could disturb, as values and as identities."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "values": {name: t.detach().clone() for name, t in tensors},
        "objects": {name: (id(t), t.data_ptr(), t.requires_grad, id(t.grad)) for name, t in tensors},
        "versions": {name: t._version for name, t in tensors},
        "flags": [m.training for m in model.modules()],
        "hooks": [len(getattr(m, kind)) for m in model.modules() for kind in HOOKS],
        "classes": [type(m) for m in model.modules()],
        "attributes": [{k: id(v) for k, v in vars(m).items()} for m in model.modules()],
        "lengths": [{k: len(v) for k, v in vars(m).items() if hasattr(v, "__len__")} for m in model.modules()],
    }


def same(before, after):
    values, kept = before.pop("values"), after.pop("values")
    assert values.keys() == kept.keys()
    for name, value in values.items():
        assert torch.equal(value, kept[name]), name
    assert before == after


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(self.norm(self.conv(x)))


class Fails(Block):
    def forward(self, x):
        raise RuntimeError(f"no forward for {tuple(super().forward(x).shape)}")


class MaxNorm(nn.Conv2d):
    """Replaces its weight's memory at every call, as EEGNet's constrained convolutions do."""

    def forward(self, x):
        self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.01)
        return super().forward(x)


class Decays(nn.Conv2d):
    """Writes to its weight in place."""

    def forward(self, x):
        with torch.no_grad():
            self.weight.mul_(0.5)
        return super().forward(x)


class Frozen(dict):
    """Configuration that refuses to change, as some libraries keep it."""

    def clear(self):
        raise TypeError("frozen")

    update = __setitem__ = clear


class Remembers(nn.Module):
    """Counts its calls, keeps what it saw, replaces a buffer, and makes a layer on first use."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))
        self.calls, self.seen, self.by_size, self.names, self.late = 0, [self], {}, {"conv"}, None
        self.seen.append(self.seen)
        self.fixed = Frozen(width=3)

    def forward(self, x):
        self.calls += 1
        self.seen.append(x)
        self.by_size[tuple(x.shape)] = x
        self.names.add("late")
        self.mean = self.mean + x.mean((0, 2, 3))
        self.late = self.late or nn.Conv2d(3, 2, 1)
        return self.late(x)


class Learns(nn.Module):
    """Takes a gradient step on itself, as test-time training does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x):
        with torch.enable_grad():
            self.conv(x).square().mean().backward()
        with torch.no_grad():
            self.conv.weight -= self.conv.weight.grad
        self.conv.weight.requires_grad_(False)
        return self.conv(x)


class InPlace(nn.Module):
    def forward(self, x):
        return x.sub_(1).relu_()


def spectral():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.spectral_norm(nn.Conv2d(3, 4, 3))


MODELS = {
    "batch norm and dropout": Block,
    "memory replaced": lambda: MaxNorm(3, 4, 3),
    "written in place": lambda: Decays(3, 4, 3),
    "attributes": Remembers,
    "gradients": Learns,
    "spectral norm by hooks": spectral,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
    "instance norm": lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    "own layer": lambda: omniconv.nn.Conv2d(3, 4, 3),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_model(name, training):
    model = MODELS[name]().train(training)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    gradients = [(p.grad, p.grad.clone()) for p in model.parameters()]
    x = torch.randn(2, 3, 8, 8)
    before = state(model)
    first = profiled(model, x, receptive_field=True).to_dict()
    same(before, state(model))
    assert all(torch.equal(grad, kept) for grad, kept in gradients)
    assert profiled(model, x, receptive_field=True).to_dict() == first


def test_a_block_as_a_control():
    model, x = MODELS["batch norm and dropout"](), torch.randn(2, 3, 8, 8)
    before = state(model)
    model(x)
    with pytest.raises(AssertionError):
        same(before, state(model))


def test_the_input():
    x = torch.randn(2, 3, 8, 8)
    kept, version = x.clone(), x._version
    assert profiled(InPlace(), x).other_ops == 2 * x.numel()
    assert torch.equal(x, kept)
    assert x._version == version


def test_flags_of_each_module():
    model = nn.Sequential(Block(), nn.Conv2d(4, 3, 1), Block().eval())
    model[0].norm.eval()
    model[2].drop.train()
    flags = [m.training for m in model.modules()]
    profiled(model, (1, 3, 8, 8), receptive_field=True)
    assert [m.training for m in model.modules()] == flags


def test_random_states():
    class Draws(Block):
        def forward(self, x):
            random.random()  # noqa: S311
            np.random.rand()  # noqa: NPY002 - models draw from the global state
            return super().forward(x) + torch.rand(())

    model = Draws()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    profiled(model, (2, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()  # noqa: NPY002


def test_a_failing_model_leaves_nothing_behind():
    model = Fails()
    before, drawn = state(model), torch.get_rng_state()
    with pytest.raises(RuntimeError, match=r"no forward for \(2, 4, 8, 8\)"):
        profiled(model, (2, 3, 8, 8))
    same(before, state(model))
    assert torch.equal(torch.get_rng_state(), drawn)
    assert _get_current_dispatch_mode() is None
    assert current_listener() is None
    assert profiled(Block(), (2, 3, 8, 8)).macs == 2 * 64 * 4 * 27


def test_a_failure_that_the_model_survives():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.fails, self.conv = Fails(), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            try:
                return self.fails(x)
            except RuntimeError:
                return self.conv(x).relu()

    rows = profiled(Tries(), (2, 3, 8, 8)).rows
    assert [(row.name, row.family) for row in rows if row.macs] == [("fails.conv", "standard"), ("conv", "pointwise")]
    assert rows[-1].name == ""


@pytest.mark.parametrize("name", ["batch norm and dropout", "written in place", "spectral norm by hooks"])
def test_a_graph_that_waits_for_its_backward_pass(name):
    model, x = MODELS[name](), torch.randn(2, 3, 8, 8)
    loss = model.eval()(x).square().sum()
    profiled(model.train(), x)
    loss.backward()
    assert any(p.grad is not None for p in model.parameters())


def test_lazy_modules_stay_lazy():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5))
    drawn = torch.get_rng_state()
    found = profiled(model, (2, 3, 8, 8))
    assert [row.name for row in found.rows if row.macs] == ["0", "3"]
    assert (found.params, found.macs) == (108 + 4 + 8 + 144 * 5 + 5, 2 * (36 * 108 + 144 * 5))
    assert "copy" in found.notes[0]
    assert isinstance(model[0], nn.LazyConv2d)
    assert all(nn.parameter.is_lazy(p) for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(model[0]._forward_hooks)


def test_a_copy_profiles_alike():
    model = Block()
    assert profiled(copy.deepcopy(model), (2, 3, 8, 8)).to_dict() == profiled(model, (2, 3, 8, 8)).to_dict()
