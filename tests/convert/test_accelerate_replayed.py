# SPDX-License-Identifier: Apache-2.0
"""Recordings: what they are made for, and that they end where tensors or modules are put in the place of others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import omniconv
from convert.accelerated_steps import X, block, conv
from omniconv.convert.accelerate.replayed import IDLE, MOST, MOST_SEEN, _Ready
from omniconv.core.library import absent
from omniconv.ops.conv.prepacked import PrepackedConv
from tolerance import assert_close

needs_library = pytest.mark.skipif(bool(absent()), reason=absent())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = block(), conv(8, 4, 1)

    def forward(self, picture, gain=None):
        found = self.second(self.first(picture))
        return found if gain is None else found * gain


@pytest.fixture
def x():
    return torch.randn(X, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def fast(x):
    """A network that is recorded, where there is a library."""
    torch.manual_seed(0)
    found = omniconv.accelerate(Net(), x, seconds=0)
    with torch.no_grad():
        for _ in range(4):
            found(x)
    return found


def recorded(fast):
    return [held for held in fast.network._kinds.values() if isinstance(held, _Ready)]


def doubled(fast):
    return {name: 2 * tensor for name, tensor in fast.state_dict().items()}


def by_assignment(fast, x):
    fast.load_state_dict(doubled(fast), assign=True)
    return fast(x)


def by_functional_call(fast, x):
    return torch.func.functional_call(fast, doubled(fast), (x,))


def by_attributes(fast, x):
    wanted = doubled(fast)
    for path, module in fast.named_modules():
        for name in list(module._parameters):
            if module._parameters[name] is not None:
                setattr(module, name, nn.Parameter(wanted[f"{path}.{name}"], requires_grad=False))
    return fast(x)


def by_modules(fast, x):
    twin = copy.deepcopy(fast)
    twin.load_state_dict(doubled(fast))
    for name, module in twin.network.graph.named_children():
        setattr(fast.network.graph, name, module)
    return fast(x)


def by_copying(fast, x):
    fast.load_state_dict(doubled(fast))
    return fast(x)


@pytest.mark.parametrize("put", [by_assignment, by_functional_call, by_attributes, by_modules, by_copying])
def test_what_is_put_in_the_place_of_tensors_is_used(fast, x, put):
    assert len(recorded(fast)) == (not absent())
    before = fast(x)
    fresh = copy.deepcopy(fast)
    fresh.load_state_dict(doubled(fast))
    with torch.no_grad():
        want = fresh(x)
        assert not torch.allclose(want, before)
        assert_close(put(fast, x), want.double())
        if put is by_functional_call:
            assert_close(fast(x), before.double())
        else:
            for _ in range(4):
                assert_close(fast(x), want.double())


@needs_library
def test_named_inputs_are_replayed(fast, x):
    with torch.no_grad():
        want, gain = fast(x), torch.randn(4, 7, 9)
        for _ in range(5):
            assert torch.equal(fast(picture=x), want)
        both = omniconv.accelerate(Net(), (x, gain), seconds=0)
        both.load_state_dict(fast.state_dict())
        for given in (lambda: both(x, gain=gain), lambda: both(gain=gain, picture=x), lambda: both(x, gain)):
            for _ in range(4):
                assert_close(given(), (want * gain).double())
        assert len(recorded(both)) == 1
        with pytest.raises(TypeError):
            both(x, nothing=gain)


@needs_library
def test_kinds_are_bounded_and_recordings_stay_where_kinds_take_turns(fast):
    kinds = [torch.randn(1, 3, 5, size) for size in range(3, 5 + MOST)]
    with torch.no_grad():
        for _ in range(6):
            for kind in kinds:
                fast(kind)
        held = recorded(fast)
        assert len(held) == MOST
        for kind in kinds:
            fast(kind)
        assert recorded(fast) == held
        for _ in range(IDLE + 3):
            fast(kinds[-1])
        assert len(recorded(fast)) == MOST
        assert recorded(fast) != held
        for size in range(2 * MOST_SEEN):
            fast(torch.randn(1, 3, 4, 3 + size))
        assert len(fast.network._kinds) <= MOST_SEEN
        assert len(recorded(fast)) == MOST


@needs_library
def test_packed_weights_are_of_the_very_tensor():
    """Memory that was freed may be given to the next tensor, of which torch has counted as many changes."""
    x, layer = torch.randn(X), conv(3, 8).requires_grad_(requires_grad=False)
    packed = PrepackedConv(omniconv.nn.Conv2d.from_torch(layer), None)
    if packed._at_once(x, None) is None:
        pytest.skip("this processor has no such operators")
    for _ in range(10):
        packed.layer.weight = None
        packed.layer.weight = nn.Parameter(torch.randn(8, 3, 3, 3), requires_grad=False)
        with torch.no_grad():
            want = nn.functional.conv2d(x.double(), packed.layer.weight.double(), layer.bias.double(), padding=1)
            assert_close(packed(x), want)
