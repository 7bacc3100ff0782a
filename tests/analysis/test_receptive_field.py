# SPDX-License-Identifier: Apache-2.0
"""Receptive fields that are known: published networks, layers worked out by hand, and what has no size."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from analysis.networks import SqueezeExcite, mobilenet_v2
from analysis.residual_networks import Block, resnet18, resnet50
from omniconv.analysis.field.receptive_field import receptive_field

IMAGE = (1, 3, 64, 64)


class Call(nn.Module):
    """A function as a module, with the modules that it uses."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        self.names = list(modules)
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs):
        return self.function(*inputs, *(getattr(self, name) for name in self.names))


def conv(c, o, k, s=1, p=0, **more):
    return nn.Conv2d(c, o, k, s, p, **more)


def seq(*layers):
    return nn.Sequential(*layers)


def residual(stride, dilation=1):
    main = seq(conv(3, 3, 3, stride, 1), conv(3, 3, 3, 1, dilation, dilation=dilation))
    return Call(lambda x, main, short: main(x) + short(x), main=main, short=conv(3, 3, 1, stride))


def squeeze_excite():
    return seq(conv(3, 8, 3, 1, 1), SqueezeExcite(8, 2))


# Network, size, stride, start, per axis where they differ; worked out from the definition, layer by layer.
ROWS = {
    "3×3, 3×3 d2": (seq(conv(3, 4, 3, 1, 1), conv(4, 4, 3, 1, 2, dilation=2)), 7, 1, -3),
    "3×3, max pool 2, 3×3": (seq(conv(3, 4, 3, 1, 1), nn.MaxPool2d(2), conv(4, 4, 3, 1, 1)), 8, 2, -3),
    "(1,5), (5,1) s(2,1)": (seq(conv(3, 4, (1, 5), 1, (0, 2)), conv(4, 4, (5, 1), (2, 1), (2, 0))), 5, (2, 1), -2),
    "k4 s2 p1, transposed k4 s2 p1": (seq(conv(3, 4, 4, 2, 1), nn.ConvTranspose2d(4, 4, 4, 2, 1)), 6, 1, -3),
    "3×3, average 3 s2 ceil": (seq(conv(3, 4, 3, 1, 1), nn.AvgPool2d(3, 2, ceil_mode=True)), 5, 2, -1),
    "same 3×3 d2": (conv(3, 4, 3, 1, "same", dilation=2), 5, 1, -2),
    "same 4×4 d3": (conv(3, 4, 4, 1, "same", dilation=3), 10, 1, -4),
    "3×3, max pool 3 d2": (seq(conv(3, 4, 3, 1, 1), nn.MaxPool2d(3, 1, dilation=2)), 7, 1, -1),
    "two stride-2 residuals": (seq(residual(2), residual(2)), 19, 4, -9),
    "the same, dilated": (seq(residual(2), residual(2, 2)), 27, 4, -13),
    "parallel 5×5 and 1×1": (
        Call(lambda x, a, b: torch.cat([a(x), b(x)], 1), a=conv(3, 4, 5, 1, 2), b=conv(3, 4, 1)),
        5,
        1,
        -2,
    ),
    "functional max pool": (
        Call(lambda x, a, b: b(F.max_pool2d(a(x), 2)), a=conv(3, 4, 3, 1, 1), b=conv(4, 4, 3, 1, 1)),
        8,
        2,
        -3,
    ),
    "3×3, nearest ×2, 3×3": (
        seq(conv(3, 4, 3, 1, 1), nn.Upsample(scale_factor=2), conv(4, 4, 3, 1, 1)),
        4,
        Fraction(1, 2),
        -2,
    ),
    "ResNet-18": (resnet18(), 435, 32, -217),
    "ResNet-50": (resnet50(), 427, 32, -213),
    "MobileNetV2": (mobilenet_v2()[:-1], 491, 32, -245),
}


@pytest.mark.pitfall(46)
@pytest.mark.parametrize(("model", "size", "stride", "start"), ROWS.values(), ids=ROWS)
def test_known(model, size, stride, start):
    found = receptive_field(model, IMAGE, layers=False)
    expected = tuple(n if isinstance(n, tuple) else (n, n) for n in (size, stride, start))
    assert (found.size, found.stride, found.start) == expected
    assert found.is_global == found.unbounded == (False, False)
    assert found.notes == ()


def test_squeeze_excite_sees_the_whole_image():
    found = receptive_field(squeeze_excite(), IMAGE)
    assert found.is_global == (True, True)
    assert found.size == (3, 3)
    assert str(found) == "whole image (local 3×3), stride 1, start -1"
    assert found.notes == tuple(f"`mean` in `1` mixes all positions along axis {axis}" for axis in (0, 1))


@pytest.mark.pitfall(46)
def test_phases_after_upsampling():
    assert receptive_field(ROWS["k4 s2 p1, transposed k4 s2 p1"][0], IMAGE).phases == ((6, 6), (6, 6))
    found = receptive_field(nn.ConvTranspose1d(3, 4, 3, 2), (1, 3, 16))
    assert found.phases == ((2, 1),)
    assert (found.size, found.stride, found.start) == ((2,), (Fraction(1, 2),), (-1,))
    assert [found.interval(0, j) for j in range(3)] == [(-1, 0), (0, 0), (0, 1)]
    assert str(found) == "2 (by phase 2/1), stride 1/2, start -1"
    gaps = receptive_field(nn.ConvTranspose1d(3, 4, 1, 3, output_padding=1), (1, 3, 16))
    assert gaps.phases == ((1, 0, 0),)
    assert gaps.interval(0, 1) is None


@pytest.mark.parametrize("size", [(1, 3, 64, 48), (1, 3, 33, 200), (2, 3, 1, 1)])
def test_does_not_depend_on_the_input_size(size):
    model = seq(conv(3, 4, 3, 2, 1), conv(4, 4, 3, 2, 1))
    assert str(receptive_field(model, size)) == "7×7, stride 4, start -3"


@pytest.mark.pitfall(46)
def test_three_axes_with_a_residual():
    body = seq(nn.Conv3d(2, 2, (3, 1, 5), 1, (1, 0, 2)), nn.Conv3d(2, 2, 3, (1, 2, 1), 1, dilation=(1, 1, 1)))
    model = Call(lambda x, body, short: body(x) + short(x), body=body, short=nn.Conv3d(2, 2, 1, (1, 2, 1)))
    found = receptive_field(model, (1, 2, 8, 8, 8))
    assert str(found) == "5×3×7, stride 1×2×1, start -2×-1×-3"


def test_layers_in_order_and_a_module_called_twice():
    shared = conv(3, 3, 3, 1, 1)
    model = Call(lambda x, shared, pool: pool(shared(shared(x))), shared=shared, pool=seq(nn.MaxPool2d(2)))
    found = receptive_field(model, IMAGE)
    assert [(name, layer.size) for name, layer in found.layers] == [
        ("shared", (3, 3)),
        ("shared", (5, 5)),
        ("pool.0", (6, 6)),
    ]
    assert receptive_field(model, IMAGE, layers=False).layers == ()


def test_plain_data():
    found = receptive_field(seq(nn.ConvTranspose1d(1, 1, 4, 2, 1), nn.Conv1d(1, 1, 3)), (1, 1, 8)).to_dict()
    layers = found.pop("layers")
    assert found == {
        "size": [3],
        "stride": ["1/2"],
        "start": [-1],
        "phases": [[3, 3]],
        "is_global": [False],
        "unbounded": [False],
        "notes": [],
    }
    assert [(layer["name"], layer["size"], layer["start"]) for layer in layers] == [("0", [2], [-1]), ("1", [3], [-1])]


GLOBAL = {
    "global pooling": (seq(conv(3, 4, 3, 1, 1), nn.AdaptiveAvgPool2d(1)), "3×3"),
    "maximum": (Call(lambda x: x.amax((2, 3))), "1×1"),
    "classifier": (seq(conv(3, 4, 3, 2, 1), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2)), "3×3"),
    "flattened": (seq(conv(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4096, 2)), "3×3"),
    "softmax": (Call(lambda x: x.flatten(2).softmax(-1).view_as(x)), "1×1"),
    "instance norm": (seq(conv(3, 4, 3, 1, 1), nn.InstanceNorm2d(4)), "3×3"),
    "group norm": (seq(conv(3, 4, 3, 1, 1), nn.GroupNorm(2, 4), conv(4, 4, 3, 1, 1)), "5×5"),
    "layer norm": (nn.LayerNorm([3, 64, 64]), "1×1"),
    "batch statistics": (nn.BatchNorm2d(3, track_running_stats=False), "1×1"),
    "fourier": (Call(lambda x: torch.fft.ifft2(torch.fft.fft2(x) * 2).real), "1×1"),
    "attention": (
        Call(lambda x, a: a(*[x.flatten(2).mT] * 3)[0], a=nn.MultiheadAttention(3, 1, batch_first=True)),
        "1×1",
    ),
}


@pytest.mark.parametrize(("model", "local"), GLOBAL.values(), ids=GLOBAL)
def test_whole_image(model, local):
    found = receptive_field(model, IMAGE)
    assert found.is_global == (True, True)
    assert str(found).startswith(f"whole image (local {local})")
    assert found.notes


@pytest.mark.parametrize(
    "attention", [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.LSTM(8, 4, batch_first=True)]
)
def test_sequences(attention):
    model = Call(lambda x, c, a: a(c(x).mT), c=nn.Conv1d(8, 8, 3, padding=1), a=attention)
    found = receptive_field(model, (1, 8, 16), output=0 if isinstance(attention, nn.LSTM) else None)
    assert (found.is_global, found.size, found.stride, found.start) == ((True,), (3,), (1,), (-1,))
    assert found.interval(0, 5) == (4, 6)


def test_one_axis_is_global():
    found = receptive_field(Call(lambda x, c: c(x) * x.mean(3, keepdim=True), c=conv(3, 3, 3, 1, 1)), IMAGE)
    assert found.is_global == (False, True)
    assert str(found) == "whole image along axis 1 (local 3×3), stride 1, start -1"


def test_a_mean_over_windows_stays_local():
    windows = Call(lambda x: x.unflatten(3, (16, 4)).unflatten(2, (16, 4)).mean((3, 5)))
    assert str(receptive_field(windows, IMAGE)) == "4×4, stride 4, start 0"


def test_grid_sampling_is_unbounded():
    def warp(x, conv, where):
        return F.grid_sample(conv(x), where(x).permute(0, 2, 3, 1), align_corners=False)

    found = receptive_field(Call(warp, conv=conv(3, 4, 3, 1, 1), where=conv(3, 2, 5, 1, 2)), IMAGE)
    assert (found.unbounded, found.is_global, found.size) == ((True, True), (False, False), (5, 5))
    assert str(found) == "unbounded (5×5 without offsets), stride 1, start -2"
    assert any("where offsets point" in note for note in found.notes)


@pytest.fixture
def deform_conv2d():
    """The operator of torchvision by its schema; only its shapes matter here."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    sides = ", ".join(f"SymInt {name}_{side}" for name in ("stride", "pad", "dilation") for side in "hw")
    library.define(
        "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
        f"{sides}, SymInt groups, SymInt offset_groups, bool use_mask) -> Tensor"
    )

    def shapes(x, weight, offset, *_):
        return x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:])

    library.impl("deform_conv2d", shapes, "Meta")
    library.impl("deform_conv2d", shapes, "CPU")
    yield torch.ops.torchvision.deform_conv2d.default
    library._destroy()


@pytest.mark.pitfall(46)
def test_deformable_is_unbounded_and_keeps_its_taps(deform_conv2d):
    def forward(x, offsets):
        weight, none = torch.ones(4, 3, 3, 3), torch.zeros(0)
        return deform_conv2d(x, weight, offsets(x), none, none, 2, 2, 2, 2, 2, 2, 1, 1, False)

    narrow, wide = conv(3, 18, 3, 2, 1), conv(3, 18, 7, 2, 3)
    found = receptive_field(Call(forward, offsets=narrow), IMAGE)
    assert (found.unbounded, found.size, found.stride, found.start) == ((True, True), (5, 5), (2, 2), (-2, -2))
    assert receptive_field(Call(forward, offsets=wide), IMAGE).size == (7, 7)


def test_gather_is_unbounded():
    found = receptive_field(Call(lambda x: x.gather(3, x.argsort(3))), IMAGE)
    assert found.unbounded == (False, True)
    assert found.notes


@torch.library.custom_op("receptive_field_test::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@mystery.register_fake
def _(x):
    return torch.empty_like(x)


def test_an_unknown_operator_says_so():
    found = receptive_field(seq(conv(3, 4, 3, 1, 1), Call(mystery)), IMAGE)
    assert found.is_global == (True, True)
    assert found.size == (3, 3)
    assert any("`receptive_field_test::mystery` in `1` is not known" in note for note in found.notes)


def test_strides_that_differ_are_named_with_the_place():
    wrong = Block(3, 3, 2, bottleneck=False)
    wrong.shortcut = Call(lambda x: x[..., :32, :32])
    with pytest.raises(ValueError, match=r"`add` in `1` joins .* \(=2 and 1\) along spatial axis 0") as error:
        receptive_field(seq(nn.Identity(), wrong), IMAGE)
    assert "same total stride" in str(error.value)


def test_sizes_that_do_not_divide_are_an_upper_bound():
    def unet(x, down, up):
        return x + F.interpolate(up(down(x)), size=x.shape[2:])

    model = Call(unet, down=conv(3, 3, 3, 2, 1), up=conv(3, 3, 3, 1, 1))
    even, odd = receptive_field(model, (1, 3, 64, 64)), receptive_field(model, (1, 3, 65, 65))
    assert (even.size, even.stride, even.notes) == ((7, 7), (1, 1), ())
    assert odd.stride == (1, 1)
    assert even.size[0] <= odd.size[0] <= even.size[0] + 2
    assert any("upper bound" in note for note in odd.notes)


def test_aligned_corners_are_an_upper_bound():
    model = Call(
        lambda x, c: x + F.interpolate(c(x), scale_factor=2, mode="bilinear", align_corners=True), c=conv(3, 3, 2, 2)
    )
    found = receptive_field(model, IMAGE)
    assert found.stride == (1, 1)
    assert found.size >= (3, 3)
    assert any("aligns corners" in note for note in found.notes)
