# SPDX-License-Identifier: Apache-2.0
"""Whole networks made denser: ResNet-50, EfficientNet-Lite0 and others, by maps and by scores."""

from __future__ import annotations

import copy
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch

from convert.dilated_steps import apart, picture, spread
from omniconv import models
from omniconv.convert.dilate import dilate
from omniconv.convert.swap import swap
from tolerance import assert_close
from tree import ROOT

FEATURES = {
    "drn_a_50": lambda m, x: m.features(x),
    "drn_d_22": lambda m, x: m.features(x),
    "mobilenet_v2": lambda m, x: m.features(x),
    "resnet50": lambda m, x: m.stages(x)[-1],
    "resnext50_32x4d": lambda m, x: m.stages(x)[-1],
    "shufflenet_v1": lambda m, x: m.units(m.pool(torch.relu(m.bn1(m.conv1(x))))),
    "shufflenet_v2": lambda m, x: m.conv5(m.stage4(m.stage3(m.stage2(m.maxpool(m.conv1(x)))))),
    "xception": lambda m, x: m.features(x),
}


def assert_dense(model, x, output_stride, stride, features):
    """Fail unless maps before the mean, and the mean of the map of scores, are those of the model."""
    removed = (stride // output_stride,) * 2
    with torch.no_grad():
        expected, scores = features(model, x), model(x)
        found = dilate(model, output_stride, head="drop")(x)
        dense = dilate(model, output_stride)
        map_of_scores = dense(x)
    assert_close(apart(found, removed), expected)
    assert_close(apart(map_of_scores, removed).mean((2, 3)), scores)
    assert map_of_scores.shape[2:] == found.shape[2:]
    assert list(dense.state_dict()) == list(model.state_dict())
    return dense


@pytest.mark.parametrize(
    ("name", "output_stride", "size"),
    [
        ("resnet50", 8, (65, 97)),
        ("resnet50", 16, (64, 75)),
        ("resnet50", 2, (33, 40)),
        ("resnext50_32x4d", 8, (65, 50)),
        ("mobilenet_v2", 8, (97, 66)),
        ("mobilenet_v2", 1, (33, 34)),
        ("shufflenet_v1", 4, (65, 50)),  # with means of windows
        ("shufflenet_v2", 8, (65, 50)),
        ("drn_a_50", 4, (33, 50)),
        ("drn_d_22", 2, (33, 50)),
        ("xception", 8, (75, 66)),
    ],
)
def test_networks(name, output_stride, size):
    model = spread(models.create(name, num_classes=7))
    assert_dense(model, picture(*size), output_stride, 8 if name.startswith("drn") else 32, FEATURES[name])


def test_the_size_that_training_had():
    """224 is a multiple of every stride, and 225 is the first input of one position more."""
    model = spread(models.create("mobilenet_v2", num_classes=3))
    for size in (224, 225):
        dense = assert_dense(model, picture(size, size), 16, 32, FEATURES["mobilenet_v2"])
    assert tuple(dense(picture(225, 64)).shape) == (1, 3, 15, 4)


def test_resnet_as_deeplab_dilates_it():
    """The catalogue's own dilated network, written down by hand, agrees at every position."""
    plain = spread(models.create("resnet50", num_classes=5))
    by_hand = models.create("resnet50", num_classes=5, output_stride=8).double().eval()
    by_hand.load_state_dict(plain.state_dict())
    x = picture(65, 81)
    with torch.no_grad():
        assert_close(dilate(plain, 8, head="drop")(x), by_hand.stages(x)[-1])
        assert_close(dilate(plain, 8, head="keep")(x), by_hand(x))
        assert not torch.allclose(by_hand(x), plain(x))


def test_drn_dilates_a_block_more():
    """Its first block of a stage is dilated like those behind it, so that a classifier's weights give other maps."""
    plain, drn = (
        spread(models.create("resnet50", num_classes=5)),
        models.create("drn_a_50", num_classes=5).double().eval(),
    )
    drn.load_state_dict(plain.state_dict())
    x = picture(65, 65)
    with torch.no_grad():
        assert not torch.allclose(dilate(plain, 8, head="drop")(x), drn.features(x), rtol=0.01)
        for stage, dilation in (("layer3.0", 1), ("layer4.0", 2)):
            block = drn.get_submodule(stage)
            block.conv2 = type(block.conv2).from_torch(block.conv2, dilation=dilation, padding=dilation)
        assert_close(dilate(plain, 8, head="drop")(x), drn.features(x))


@pytest.fixture(scope="module")
def lite():
    spec = spec_from_file_location("efficientnet_lite0", ROOT / "examples" / "efficientnet_lite0.py")
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    if any(not example.folder(name).parts for name in example.PACKAGES):
        pytest.skip("the extra `examples` is not installed")
    return example


@pytest.mark.parametrize("output_stride", [8, 16])
def test_efficientnet_lite0(lite, output_stride):
    """It pads on one side more than on the other, in steps of their own, which are traced like any other."""
    net = lite.network().double()
    pictures, labels = lite.photographs()
    x = pictures[:1].double()
    dense = assert_dense(net, x, output_stride, 32, lambda m, x: m.extract_features(x))
    removed = 32 // output_stride
    assert int(dense(x)[..., ::removed, ::removed].mean((2, 3)).argmax()) == int(labels[0])
    assert_dense(net, picture(97, 130), output_stride, 32, lambda m, x: m.extract_features(x))


def test_efficientnet_lite0_swapped(lite):
    net = lite.network().double()
    found = swap(copy.deepcopy(net), {type(net._conv_stem): lite.with_own_padding})
    x = picture(65, 98)
    assert_close(dilate(found.model, 8)(x), dilate(net, 8)(x))


def test_squeeze_and_excitation():
    model, x = spread(models.create("efficientnet_b0", num_classes=5)), picture(65, 98)
    with pytest.raises(ValueError, match=r"at `mean` in `features\.6\.0\.block\.2`, .* returns to the map at `mul`"):
        dilate(model, 16)
    with torch.no_grad():
        assert_close(dilate(model, 32, head="keep")(x), model(x))
        features = dilate(model, 8, head="drop", means="sampled")(x)
        assert_close(apart(features, (4, 4)), model.features(x))
        assert_close(apart(dilate(model, 8, means="sampled")(x), (4, 4)).mean((2, 3)), model(x))
