# SPDX-License-Identifier: Apache-2.0
"""Convolutions in channels last as products of matrices: which are, in which layouts, and that they are right."""

from __future__ import annotations

import copy
import mmap
from itertools import product

import pytest
import torch
from torch import nn

import omniconv
from convert.accelerated_steps import X, accelerated, conv, norm
from convert.test_accelerate_layers import ACTIVATIONS, followed, formula, laid, layer
from omniconv.convert.accelerate import layout
from omniconv.core import native
from omniconv.core.flat import Flat
from omniconv.core.library import absent
from omniconv.ops.conv import FAMILY, prepacked
from omniconv.ops.conv.prepacked import PrepackedConv
from tolerance import assert_close

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())
LAST = torch.channels_last


@pytest.fixture
def multiplied(monkeypatch):
    """The inputs that were multiplied."""
    seen, own = [], PrepackedConv._multiplied
    monkeypatch.setattr(PrepackedConv, "_multiplied", lambda self, x, *more: seen.append(x) or own(self, x, *more))
    return seen


SIZES = {
    "a stem": ((3, 64, 7), {"stride": 2, "padding": 3}, (33, 46)),
    "of one tap, with a stride": ((32, 40, 1), {"stride": 2}, (13, 17)),
    "of all channels": ((64, 70, 3), {"padding": 1}, (14, 14)),
    "of rows that tiles share": ((48, 33, 3), {"padding": 1}, (9, 7)),
    "of channels a power of two": ((256, 32, 3), {"padding": 1, "stride": 2}, (11, 13)),
    "of groups": ((64, 96, 3), {"padding": 1, "groups": 4}, (15, 29)),
    "of many groups": ((512, 512, 3), {"padding": 1, "groups": 32}, (7, 7)),
    "padded at one side": ((17, 19, 4), {"padding": ((0, 3), (5, 0)), "stride": (1, 3)}, (10, 40)),
    "wide": ((3, 16, (1, 9)), {}, (3, 1500)),
    "of an input smaller than the kernel": ((16, 16, 7), {"padding": 3}, (2, 3)),
    "of taps that meet padding alone": ((16, 20, 9), {"padding": 9}, (4, 6)),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_formula(name, multiplied):
    sizes, options, image = SIZES[name]
    for activation, batch, bias in product(ACTIVATIONS, (1, 3), (True, False)):
        made = layer(2, *sizes, bias=bias, **options)
        module, x = PrepackedConv(made, activation), torch.randn(batch, sizes[0], *image).contiguous(memory_format=LAST)
        right, terms = formula(made, x)
        found = module(x)
        assert found.is_contiguous(memory_format=LAST)
        assert_close(found, followed(right, activation), terms=None if activation else terms)
        for other in ("in order", "channels last"):
            residual = laid(torch.randn(right.shape), other)
            assert_close(module(x, residual), followed(right, activation, residual))
    assert len(multiplied) == 3 * 4 * len(ACTIVATIONS)


def test_volumes(multiplied):
    for groups, stride in ((1, 1), (2, 2)):
        made = layer(3, 32, 48, (3, 2, 3), padding=1, stride=(1, stride, 1), groups=groups)
        x = torch.randn(2, 32, 5, 6, 9).contiguous(memory_format=torch.channels_last_3d)
        assert_close(PrepackedConv(made, nn.ReLU())(x), formula(made, x)[0].relu())
    assert len(multiplied) == 2


DILATED = [
    ((3, 5), ((4, 4), (6, 6)), (4, 3), (21, 19)),
    ((3, 3), ((20, 20), (20, 20)), (20, 20), (9, 12)),  # most taps meet padding alone
    ((1, 3), ((0, 0), (5000, 5000)), (1, 5000), (5, 6)),
]


def test_by_the_operator_in_both_types():
    for dtype, channels, groups in product((torch.float32, torch.bfloat16), (1, 3, 6), (1, 3)):
        if channels % groups:
            continue
        by_the_operator(layer(2, channels, 24, 3, padding=1, groups=groups, dtype=dtype), (12, 37))
    for kernel, pads, dilation, size in DILATED:
        by_the_operator(layer(2, 20, 36, kernel, padding=pads, dilation=dilation), size)


def by_the_operator(made, size):
    operators, (channels, dtype) = torch.ops.omniconv, (made.problem.in_channels, made.weight.dtype)
    flat = Flat(FAMILY.schema, ("zeros",)).pack(FAMILY.numbers(made.problem, ()))
    for how in ("in order", "channels last"):
        x = laid(torch.randn(2, channels, *size).to(dtype), how)
        for packed in (None, operators.implicit_pack(x, made.weight, flat)):
            found = operators.implicit_followed(x, made.weight, packed, made.bias, [], 0.0, None, (*flat, 0))
            assert found.is_contiguous(memory_format=LAST)
            assert_close(found, formula(made, x)[0], terms=formula(made, x)[1])
        with pytest.raises(RuntimeError, match="addend"):
            operators.implicit_followed(x, made.weight, None, None, [], 0.0, x[..., 1:], (*flat, 0))
    with pytest.raises(RuntimeError, match="`groups` must divide"):
        operators.implicit_pack(torch.randn(2, channels + 1, *size).to(dtype), made.weight, flat)


def test_who_else_computes(multiplied):
    """For few channels in a group, in order, in other types and of one column others are faster."""
    images = torch.randn(2, 32, 9, 11)
    cases = [
        (layer(2, 32, 32, 3, groups=8), images.contiguous(memory_format=LAST)),
        (layer(2, 32, 32, 3), images),
        (layer(2, 32, 32, 3, dtype=torch.bfloat16), images.bfloat16().contiguous(memory_format=LAST)),
        (layer(2, 32, 32, 3, dtype=torch.float64), images.double().contiguous(memory_format=LAST)),
        (layer(2, 32, 32, (1, 11)), images.contiguous(memory_format=LAST)),
        (layer(2, 32, 32, 3, padding=2, dilation=2), images.contiguous(memory_format=LAST)),
        (layer(2, 32, 32, 3), images[:0].contiguous(memory_format=LAST)),
    ]
    for made, x in cases:
        assert_close(PrepackedConv(made, nn.ReLU())(x), formula(made, x)[0].relu())
    assert not multiplied
    with pytest.raises(ValueError, match="in_channels"):
        PrepackedConv(layer(2, 32, 32, 3), None)(torch.randn(2, 31, 9, 11).contiguous(memory_format=LAST))
    with pytest.raises(ValueError, match="residual"):
        PrepackedConv(layer(2, 32, 32, 3), None)(cases[0][1], torch.randn(2, 32, 9, 11))


def test_packed_again_when_weights_change(multiplied):
    made, x = layer(2, 8, 16, 3), torch.randn(1, 8, 9, 9).contiguous(memory_format=LAST)
    module = PrepackedConv(made, None)
    for _ in range(2):
        assert_close(module(x), formula(made, x)[0])
        made.weight.mul_(-2)
    assert len(multiplied) == 2
    packed = []
    for given in (x, x.contiguous(), x, x.contiguous()):  # the latter of weights that oneDNN packed
        assert_close(module(given), formula(made, x)[0])
        packed.append({whose: held[2] for whose, held in module._held.items()})
    assert len(multiplied) == 4
    assert packed[1].keys() == packed[3].keys() == {"implicit", "oneDNN"}
    assert all(packed[3][whose] is packed[1][whose] for whose in packed[1])  # neither evicts the other


def stem(channels=3):
    return nn.Sequential(conv(channels, 16, stride=2), norm(16), nn.ReLU(), conv(16, 24, bias=False), norm(24)).eval()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_first_layer_takes_inputs_in_order(channels, multiplied, tmp_path):
    net, x = stem(channels), torch.randn(2, channels, 21, 34)
    fast = accelerated(net, x, layout="channels last")
    assert layout.channels_innermost not in [node.target for node in fast.network.graph.graph.nodes]
    fast.save(tmp_path / "network.pt")
    right = copy.deepcopy(net).double()
    for network in (fast, omniconv.load(tmp_path / "network.pt")):
        for given in (x, x.contiguous(memory_format=LAST), x[:, :, ::2, 1:], x.mT, x[:1].expand(3, -1, -1, -1)):
            multiplied.clear()
            assert_close(network(given), right(given.double()))
            assert given.stride() in [seen.stride() for seen in multiplied]


def test_a_first_layer_that_cannot_have_its_input_laid(multiplied):
    made, x = layer(2, 3, 16, 3), torch.randn(2, 3, 9, 11)
    module = PrepackedConv(made, None)
    for given in (x.double(), x.bfloat16(), x[..., :3]):  # of other types, and of one column
        own = layer(2, 3, 16, 3, dtype=given.dtype)
        own.weight.copy_(made.weight), own.bias.copy_(made.bias)
        assert PrepackedConv(own, None)(given, innermost=True).is_contiguous(memory_format=LAST)
        assert_close(PrepackedConv(own, None)(given, innermost=True), formula(own, given)[0])
    assert not multiplied
    handle = made.register_forward_hook(lambda *_: None)
    assert_close(module(x, innermost=True), formula(made, x)[0])
    handle.remove()
    assert not multiplied
    compiled = torch.compile(lambda given: module(given, innermost=True), backend="eager")
    assert_close(compiled(x), formula(made, x)[0])
    assert compiled(x).is_contiguous(memory_format=LAST)


def test_traced_again_it_lays_still():
    net, x = stem(), torch.randn(2, 3, 21, 34)
    again = torch.fx.symbolic_trace(accelerated(net, x, layout="channels last").network.graph)
    assert_close(again(x), copy.deepcopy(net).double()(x.double()))
    assert native.channels_innermost in [node.target for node in again.graph.nodes]


def test_in_bfloat16_where_onednn_does_not_compute_it(multiplied, monkeypatch):
    made, x = layer(2, 8, 16, 3, dtype=torch.bfloat16), torch.randn(2, 8, 9, 9).bfloat16()
    monkeypatch.setattr(prepacked, "_takes", lambda dtype: dtype is not torch.bfloat16)
    for given in (x, x.contiguous(memory_format=LAST)):
        assert_close(PrepackedConv(made, nn.ReLU())(given), formula(made, x)[0].relu())
    assert len(multiplied) == 1


def test_a_slice_of_channels_at_the_end_of_its_memory(multiplied):
    """Channels that lie as far apart as the kernel's copy lays them: nothing behind the last is read."""
    for beside in (4, 8, 16):
        memory = mmap.mmap(-1, 2 * mmap.PAGESIZE * 64)
        count = 6 * 5 * (256 + beside)
        own = torch.frombuffer(memory, dtype=torch.float32)[-count:].view(1, 6, 5, 256 + beside).normal_()
        x, made = own.permute(0, 3, 1, 2)[:, beside:], layer(2, 256, 32, 3)
        assert_close(PrepackedConv(made, None)(x), formula(made, x)[0])
    assert len(multiplied) == 3


def test_an_input_that_others_read_is_laid_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.pool = conv(3, 3), nn.AvgPool2d(3, 1, 1)

        def forward(self, x):
            return self.one(x) + self.pool(x)

    fast = accelerated(Twice().eval(), torch.randn(X), layout="channels last")
    assert layout.channels_innermost in [node.target for node in fast.network.graph.graph.nodes]


def test_without_onednn(multiplied, monkeypatch):
    monkeypatch.setattr(prepacked, "_operators", lambda: None)
    monkeypatch.setattr(prepacked, "_takes", prepacked._takes.__wrapped__)
    net, x = stem(), torch.randn(2, 3, 21, 34)
    fast = accelerated(net, x, layout="channels last", changes=["PrepackedConv", "PrepackedConv"])
    assert multiplied
    for given in (x, x.bfloat16()):
        own = copy.deepcopy(fast.network.graph).to(given.dtype)
        assert_close(own(given), copy.deepcopy(net).to(given.dtype).double()(given.double()), terms=None)
    assert prepacked.why_not_prepacked(layer(2, 8, 8, 3, dilation=2).problem) == "this torch has no oneDNN"
