# SPDX-License-Identifier: Apache-2.0
"""In training: what stands between a convolution and the norm behind it, which are one step where nobody looks on."""

import gc
import io
from weakref import ref

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import omniconv
from convert.training_steps import block, counted, picture, step, taken


@pytest.fixture
def steps(monkeypatch):
    return counted(monkeypatch)


class Between(nn.Module):
    """A convolution and a norm, and what somebody does with what stands between them."""

    def __init__(self, does):
        super().__init__()
        self.net, self.does = block(), does

    def forward(self, x):
        first, norm, activation = self.net
        between = first(x)
        changed = self.does(between, x)
        return activation(norm(between if changed is None else changed)) + (self.pooled(between) if self.reads else 0)

    reads = False

    def pooled(self, between):
        return between.mean((2, 3), keepdim=True)


def in_place(between, x):
    between.mul_(2)


def waits(between, x):
    between.register_hook(lambda grad: 2 * grad)


def keeps(between, x):
    between.retain_grad()


USES = {
    "nothing": lambda between, x: None,
    "another": lambda between, x: between * 2,
    "in place": in_place,
    "alias": lambda between, x: between.view_as(between),
    "hook": waits,
    "kept": keeps,
    "detached": lambda between, x: between.detach(),
    "no gradients": lambda between, x: torch.no_grad()(lambda: between + 0)(),
}


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("use", USES)
def test_what_stands_between_is_anybodys(use, reads, steps):
    net, x = Between(USES[use]).train(), picture((9, 7))
    net.reads = reads
    fast, grad = taken(net, x), torch.randn(2, 19, 9, 7)
    for run in (net, fast):
        run.found = step(run, x.clone(memory_format=torch.preserve_format), grad)
    for name, right in net.found.items():
        torch.testing.assert_close(fast.found[name], right, rtol=1e-3, atol=2e-4, msg=name)
    if hasattr(torch.ops.omniconv, "isa"):
        assert len(steps) == (use == "nothing")


@pytest.mark.parametrize("changed", ["input", "weight"])
def test_sources_that_change_before_the_norm_raise_as_torchs(changed):
    def changes(between, x):
        with torch.no_grad():
            (x if changed == "input" else net.net[0].weight).add_(1)

    for one in (Between(changes).train(), taken(Between(changes).train(), picture((9, 7)))):
        net, x = one, picture((9, 7)).requires_grad_()
        with pytest.raises(RuntimeError, match="inplace"):
            net(x * 1).sum().backward()


def test_layers_in_other_places_and_wrapped():
    net, x = block(), picture((9, 7))
    fast = taken(net, x)
    regrouped = nn.Sequential(nn.Sequential(fast[0]), nn.Sequential(fast[1], fast[2]))
    torch.testing.assert_close(regrouped(x), net(x), rtol=1e-4, atol=1e-5)
    served = omniconv.accelerate(regrouped.eval(), x, seconds=0)
    torch.testing.assert_close(served(x), net.eval()(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast[:1](x), net[:1](x))
    assert fast[0].bias is None
    prune.random_unstructured(fast[0], "weight", 0.5)
    net.train()
    fast.train()
    with torch.no_grad():
        net[0].weight.copy_(fast[0].weight)
    grad = torch.randn(2, 19, 9, 7)
    found, right = step(fast, x, grad), step(net, x, grad)
    torch.testing.assert_close(found["0.weight_orig"], right["0.weight"] * fast[0].weight_mask, rtol=1e-3, atol=1e-4)


def test_networks_that_call_their_layers_themselves(steps):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(5, 19, 1, bias=False), nn.BatchNorm2d(19)
            self.conv2, self.bn2 = nn.Conv2d(19, 5, 1, bias=False), nn.BatchNorm2d(5)

        def forward(self, x):
            return x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))

    net, x = Block().train(), picture((9, 7))
    fast, grad = taken(net, x), torch.randn(2, 5, 9, 7)
    found, right = step(fast, x, grad), step(net, x, grad)
    for name in right:
        torch.testing.assert_close(found[name], right[name], rtol=1e-3, atol=1e-4)
    if hasattr(torch.ops.omniconv, "isa"):
        assert len(steps) == 2


def test_what_stands_between_is_saved_without_what_it_was_told():
    fast, x = taken(block(), picture((9, 7))), picture((9, 7))
    between, file = fast[0](x), io.BytesIO()
    assert not vars(between)
    torch.save(between, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=True), between)


def test_what_it_was_computed_from_lives_no_longer_than_it_does():
    fast, x = taken(block(), picture((9, 7))), picture((9, 7))
    source = ref(x)
    fast(x).sum().backward()
    del x
    gc.collect()
    assert source() is None
