# SPDX-License-Identifier: Apache-2.0
"""What ``dilate`` does not do it says: the step, why it has no counterpart on a denser map, and what would do."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.utils import prune

import omniconv
from omniconv import models
from omniconv.convert.dilate import dilate


class Written(nn.Module):
    """A strided convolution, and a function that is given its map and some layers."""

    def __init__(self, function, **layers):
        super().__init__()
        self.first, self.function = nn.Conv2d(3, 4, 3, 2, 1), function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, self.first(x))


def behind(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), *layers)


@fx.wrap
def relu(x):
    """Not torch's."""
    return x.flip(-1)


class PadsItself(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class OfItsOwn(omniconv.nn.Conv2d):
    def forward(self, input):
        return super().forward(input) + 1


class Looks(nn.Module):
    def forward(self, x):
        return x if x.shape[2] > 4 else -x


def shared_by_two_strides():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    return behind(conv, nn.MaxPool2d(2), conv)


def shared_with_a_mean():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    return Written(lambda m, x: m.conv(x) * m.conv(x.mean((2, 3), keepdim=True)), conv=conv)


def with_more():
    layer = omniconv.nn.Conv2d(4, 4, 3)
    layer.register_buffer("scale", torch.ones(1))
    return behind(layer)


LARGER = "; use a larger output_stride."
DROP = "; use head='drop'"
STEPS = {
    "instance norm": (lambda: behind(nn.InstanceNorm2d(4)), "`1` (InstanceNorm2d), which takes statistics", LARGER),
    "group norm": (lambda: behind(nn.GroupNorm(2, 4)), "`1` (GroupNorm), which takes statistics", LARGER),
    "batch norm without memory": (
        lambda: behind(nn.BatchNorm2d(4, track_running_stats=False)), "`1` (BatchNorm2d), which takes stat", LARGER,
    ),
    "layer norm over positions": (
        lambda: behind(nn.LayerNorm((4, 8, 8))), "`1` (LayerNorm), which takes statistics", LARGER,
    ),
    "transposed": (lambda: behind(nn.ConvTranspose2d(4, 4, 2, 2)), "`1` (ConvTranspose2d), which puts pos", LARGER),
    "transposed, ours": (
        lambda: behind(omniconv.nn.ConvTranspose2d(4, 4, 2, 2)), "`1` (ConvTranspose2d), which puts pos", LARGER,
    ),
    "deformable": (lambda: behind(omniconv.nn.DeformableConv2d(4, 4, 3)), "which has taps or weights that", LARGER),
    "dynamic": (lambda: behind(omniconv.nn.DynamicConv2d(4, 3)), "which has taps or weights that differ", LARGER),
    "reflected": (
        lambda: behind(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "which pads with 'reflect'", LARGER,
    ),
    "wrapped": (lambda: behind(nn.CircularPad2d(1)), "`1` (CircularPad2d), which pads with 'circular'", LARGER),
    "replicated": (
        lambda: Written(lambda m, x: F.pad(x, (1, 1, 1, 1), "replicate")), "`pad`, which pads with 'replicate'", LARGER,
    ),
    "another function of that name": (lambda: Written(lambda m, x: relu(x)), "`relu`, which is not known to", DROP),
    "a leaf of another class": (
        lambda: behind(nn.utils.parametrizations.weight_norm(PadsItself(4, 4, 3))), "which is not known to act", DROP,
    ),
    "of other axes": (lambda: behind(omniconv.nn.Conv1d(8, 8, 1)), "`1` (Conv1d), which is not known to act", DROP),
    "weights from a map": (
        lambda: Written(lambda m, x: F.conv2d(x, x[:, :, :1, :1])), "picks some positions of the map", DROP,
    ),
    "sizes of its own": (lambda: Written(lambda m, x: x.view(1, 2, 2, 8, 8)), "has sizes that do not follow", DROP),
    "numbers computed": (
        lambda: Written(lambda m, x: F.avg_pool2d(x, x.shape[2])), "`avg_pool2d`, which is not known to act", DROP,
    ),
    "resampled": (lambda: behind(nn.Upsample(scale_factor=2)), "`1` (Upsample), which resamples the map", DROP),
    "resampled and joined": (
        lambda: Written(lambda m, x: F.interpolate(F.relu(x)[:, :, 1:, 1:], (8, 8)) + x),
        "`interpolate`, which resamples the map, whose positions then stand elsewhere, and returns to the map at `add`",
        LARGER,
    ),
    "shuffled": (lambda: behind(nn.PixelShuffle(2)), "`1` (PixelShuffle), which resamples the map", DROP),
    "unpooled": (lambda: behind(nn.MaxPool2d(2, return_indices=True)), "returns the places of its maxima", DROP),
    "unknown": (lambda: behind(nn.Unfold(2)), "`1` (Unfold), which is not known to act position by", DROP),
    "attention": (
        lambda: Written(lambda m, x: F.scaled_dot_product_attention(x, x, x)), "is not known to act position", DROP,
    ),
    "flat": (lambda: behind(nn.Flatten(), nn.Linear(256, 5)), "`1` (Flatten), which lays positions side by", DROP),
    "pooled to more than one": (
        lambda: behind(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)), "`1` (AdaptiveAvgPool2d)", DROP,
    ),
    "largest": (lambda: behind(nn.AdaptiveMaxPool2d(1), nn.Flatten()), "`1` (AdaptiveMaxPool2d), which reads", DROP),
    "one axis alone": (lambda: Written(lambda m, x: x.mean(2)), "which reads along some axes of the map, and", DROP),
    "channels too": (lambda: Written(lambda m, x: x.mean((1, 2, 3))), "`mean`, which reads all positions", DROP),
    "along positions": (lambda: Written(lambda m, x: x.softmax(-1)), "`softmax`, which reads along the posi", DROP),
    "linear along positions": (lambda: behind(nn.Linear(8, 8)), "`1` (Linear), which is not known to act", DROP),
    "picked": (lambda: Written(lambda m, x: x[:, :, 0]), "`getitem`, which picks some positions of the map", DROP),
    "cut off": (lambda: Written(lambda m, x: x[:, :, :-1]), "`getitem`, which picks some positions", DROP),
    "side by side": (lambda: Written(lambda m, x: torch.cat([x, x], 2)), "`cat`, which lays maps side by side", DROP),
    "cut apart": (lambda: Written(lambda m, x: x.chunk(2, 3)[0]), "`chunk`, which cuts the map into parts", DROP),
    "turned": (lambda: Written(lambda m, x: x + x.transpose(2, 3)), "joins maps whose positions stand in", DROP),
    "counted": (
        lambda: Written(lambda m, x: x / x.shape[2]), "`getattr`, which counts the positions of the map, and", LARGER,
    ),
    "a table of positions": (
        lambda: Written(lambda m, x: x + m.table.weight[0].view(8, 8), table=nn.Linear(64, 1)),
        "`add`, which joins the map and a parameter that may have positions of its own",
        LARGER,
    ),
    "other strides": (
        lambda: Written(lambda m, x: x * m.pool(x), pool=nn.MaxPool2d(8)),
        "`mul`, which joins maps that lost strides of (16, 16) and (2, 2)",
        LARGER,
    ),
    "excited": (
        lambda: Written(lambda m, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))),
        "`mean`, which reads all positions, of which a denser map has more, and returns to the map at `mul`",
        "; use means='sampled' or a larger output_stride.",
    ),
    "not affine": (
        lambda: behind(nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5)),
        "`2` (ReLU), which stands behind the mean and is not affine",
        DROP,
    ),
    "two means": (
        lambda: Written(lambda m, x: torch.cat([x.mean((2, 3)), x.mean((2, 3))], 1)), "joins several tensors", DROP,
    ),
    "shared by two strides": (shared_by_two_strides, "is used in several places that lost different strides", LARGER),
    "shared with a mean": (shared_with_a_mean, "where it slides over a map and where it does not", LARGER),
    "a class of one's own": (
        lambda: behind(OfItsOwn(4, 4, 3)), "`1` (OfItsOwn), which is of class OfItsOwn", "; use a plain layer",
    ),
    "more in it": (with_more, "`1` (Conv2d), which holds other entries than its class", "; use a plain layer there."),
    "weight norm": (
        lambda: behind(nn.utils.parametrizations.weight_norm(omniconv.nn.Conv2d(4, 4, 3))),
        "which is of class ParametrizedConv2d", "; use a plain layer there.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_steps(name):
    make, why, use = STEPS[name]
    means = "refuse" if name == "excited" else "sampled"
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        dilate(make(), 1, means=means)
    assert re.match(r"`model` \(=(Sequential|Written)\) cannot be dilated at `", str(caught.value))
    assert use in str(caught.value)


FINE = sorted(set(STEPS) - {"not affine", "two means", "largest", "pooled to more than one", "flat", "of other axes"})


@pytest.mark.parametrize("name", FINE)
def test_steps_behind_no_removed_stride_are_fine(name):
    """Two is the stride of what stands before them, so that nothing changes there."""
    net, x = STEPS[name][0]().eval(), torch.randn(2, 3, 16, 16)
    stride = re.search(r"model's \(=(\d+)\)", str(_error(lambda: dilate(net, 10**6)))).group(1)
    try:
        expected = net(x)
    except RuntimeError:  # which only looks like a network
        return
    found = dilate(net, int(stride), head="keep")(x)
    pairs = zip(*((v if isinstance(v, tuple) else (v,)) for v in (found, expected)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def _error(function):
    try:
        function()
    except ValueError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"output_stride": 3},
            ValueError,
            r"`output_stride` (=3) must divide the model's (=32); use 1, 2, 4, 8, 16 or 32.",
        ),
        ({"output_stride": 64}, ValueError, r"(=64) must divide the model's (=32)"),
        ({"output_stride": 0}, ValueError, "`output_stride` (=0) must be at least 1"),
        ({"output_stride": 8.0}, TypeError, "`output_stride` (=8.0) must be an integer"),
        ({"output_stride": "8"}, TypeError, "`output_stride` (='8') must be an integer"),
        ({"output_stride": (8, 3)}, ValueError, "`output_stride` (=(8, 3)) must divide the model's (=32)"),
        ({"output_stride": (8,)}, ValueError, "(=(8,)) must be one number, or one for each of 2 axes; use (32, 32)."),
        ({"output_stride": 8, "head": "dense"}, ValueError, "`head` (='dense') must be one of the known words"),
        ({"output_stride": 8, "means": "all"}, ValueError, "`means` (='all') must be one of the known words"),
    ],
)
def test_arguments(options, error, text):
    with pytest.raises(error, match=re.escape(text)):
        dilate(models.create("mobilenet_v2", num_classes=2), **options)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        ("resnet50", TypeError, "`model` (=str) must be an nn.Module."),
        (omniconv.nn.Conv2d(3, 4, 3), TypeError, "`model` (=Conv2d) must be a network, not one layer"),
        (nn.Sequential(nn.ReLU()), ValueError, "`model` (=Sequential) must have a convolution"),
        (
            behind(prune.l1_unstructured(nn.Conv2d(4, 4, 3), "weight", 0.5)),
            ValueError,
            "must be one that can be copied",
        ),
        (behind(Looks()), ValueError, "`model` (=Sequential) must be traceable by torch.fx, which says: symbolically"),
    ],
)
def test_models(model, error, text):
    with pytest.raises(error, match=re.escape(text)):
        dilate(model, 1)


def test_what_reads_positions_together_can_be_left_out():
    net, x = behind(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5)), torch.randn(1, 3, 17, 16)
    assert torch.equal(dilate(net, 1, head="drop")(x)[:, :, ::2, ::2], net[:2](x))
    assert dilate(net, 1, head="keep")(x).shape == (1, 5)


def test_a_stride_behind_what_nobody_knows():
    net = behind(nn.Unfold(2), nn.Unflatten(1, (4, 4)), nn.Conv2d(4, 4, 3, 2))
    why = (
        "at `1` (Unfold), which is not known to act position by position, and `3` (Conv2d) has a stride behind it; use"
    )
    with pytest.raises(ValueError, match=re.escape(why)):
        dilate(net, 2, head="keep")
    assert dilate(net, 2, head="drop")(torch.randn(1, 3, 8, 8)).shape == (1, 4, 4, 4)


def test_an_input_besides():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, x, mask):
            return self.conv(x) * mask

    with pytest.raises(ValueError, match="`mul`, which joins the map and a parameter that may have positions"):
        dilate(Masked(), 1)
    x, mask = torch.randn(1, 3, 8, 8), torch.rand(1, 1, 4, 4)
    net = Masked()
    assert torch.equal(dilate(net, 2)(x, mask), net(x, mask))


def test_two_maps_cannot_be_left_at_one():
    net = Written(lambda m, x: torch.cat([x.mean((2, 3)), F.relu(x).mean((2, 3))], 1))
    with pytest.raises(ValueError, match="is one of several that read positions together; use head='keep'"):
        dilate(net, 1, head="drop")
