# SPDX-License-Identifier: Apache-2.0
"""The reference networks: parameters, multiply-adds and names of the reference code; any size, layout and batch."""

from __future__ import annotations

import json

import pytest
import torch

import omniconv
from models.reference import FILE, digest
from omniconv import models
from omniconv.models.catalogue import NETWORKS
from omniconv.models.dropped import Dropped
from reference_networks import main
from tolerance import assert_close, assert_equal
from tree import ROOT

REFERENCE = json.loads(FILE.read_text())
ENCODERS = ("dynamicconv_encoder", "lightconv_encoder")
MAPS = ("deeplabv3_resnet50", "fcn32s", "fcn8s", "fcn_resnet50")
CLASSIFIERS = sorted(set(NETWORKS) - {*ENCODERS, *MAPS, "conv_autoencoder"})


def given(name, size=None):
    size = size or NETWORKS[name].size
    return torch.randint(2, 100, (1, size)) if name in ENCODERS else torch.randn(1, 3, size, size)


def spread(model):
    """The model in eval, with statistics in its norms that are not those of a new one."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean, 0, 0.1)
    return model.eval()


def test_names():
    assert models.list() == sorted(NETWORKS)
    with pytest.raises(ValueError, match=r"`name` \(='resnet'\) must be one of conv_autoencoder, convnext_tiny"):
        models.create("resnet")
    with pytest.raises(TypeError, match="`depth` is no option of resnet50; it takes num_classes, output_stride"):
        models.create("resnet50", depth=3)
    with pytest.raises(TypeError, match="`num_classes` is no option of lightconv_encoder"):
        models.create("lightconv_encoder", num_classes=3)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_and_multiply_adds(name):
    model = models.create(name).eval()
    found = omniconv.profile(model, given(name))
    assert (sum(p.numel() for p in model.parameters()), found.macs) == (NETWORKS[name].params, NETWORKS[name].macs)
    assert not found.uncounted


@pytest.mark.parametrize("name", REFERENCE)
def test_named_as_the_reference(name):
    own, *options = name.split()
    assert digest(models.create(own, **dict.fromkeys(options, True))) == REFERENCE[name]["digest"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classes_of_any_size_and_layout(name):
    model = spread(models.create(name, num_classes=7))
    x = torch.randn(2, 3, 71, 83)
    with torch.no_grad():
        found = model(x)
        inner = model(x.contiguous(memory_format=torch.channels_last))
    assert found.shape == (2, 7)
    assert bool(found.isfinite().all())
    scale = found.abs().max().item()
    assert torch.allclose(found, inner, rtol=1e-3, atol=1e-3 * scale)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"fcn32s", "fcn8s", "replknet_31b"}))
def test_every_parameter_learns(name):
    model = models.create(name).train()
    x = given(name, 9 if name in ENCODERS else 64)
    x = torch.cat([x, x.flip(-1)])
    model(x).square().mean().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_the_size_of_the_input(name):
    model = models.create(name, num_classes=5).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 75, 54)).shape == (1, 5, 75, 54)


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fcn_resnet50"])
def test_a_second_head_to_train_with(name):
    model = models.create(name, num_classes=5, aux=True)
    found = model.train()(torch.randn(2, 3, 40, 40))
    assert [tuple(f.shape) for f in found] == [(2, 5, 40, 40)] * 2
    assert model.eval()(torch.randn(1, 3, 40, 40)).shape == (1, 5, 40, 40)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith("drn")])
def test_drn_keeps_an_eighth(name):
    with torch.no_grad():
        assert models.create(name).eval().features(torch.randn(1, 3, 65, 80)).shape[2:] == (9, 10)


DRN_KEYS = {
    "drn_a_50": ("conv1.weight", "bn1.running_mean", "layer4.2.conv3.weight", "layer1.0.downsample.1.bias", "fc.bias"),
    "drn_c_26": ("conv1.weight", "layer1.0.conv1.weight", "layer6.1.bn2.weight", "layer8.0.conv2.weight", "fc.weight"),
    "drn_d_22": ("layer0.0.weight", "layer1.1.running_var", "layer3.0.downsample.0.weight", "layer8.1.bias", "fc.bias"),
    "drn_d_54": ("layer0.1.weight", "layer4.3.conv3.weight", "layer6.2.bn3.bias", "layer7.0.weight", "fc.weight"),
}


@pytest.mark.parametrize("name", DRN_KEYS)
def test_drn_is_named_as_its_code(name):
    state = models.create(name).state_dict()
    assert set(DRN_KEYS[name]) <= set(state)
    assert state["fc.weight"].dim() == (2 if name.startswith("drn_a") else 4)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_the_output_stride_that_was_asked_for(stride):
    model = models.create("resnet50", output_stride=stride).eval()
    with torch.no_grad():
        sizes = [tuple(found.shape[2:]) for found in model.stages(torch.randn(1, 3, 64, 96))]
    assert sizes[-1] == (64 // stride, 96 // stride)
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(ValueError, match=r"`output_stride` \(=4\) must be 8, 16 or 32"):
        models.create("resnet50", output_stride=4)


def test_a_deformable_network_starts_as_the_ordinary_one():
    plain, deformable = (spread(models.create(name)) for name in ("resnet50", "deformable_resnet50"))
    missing, unexpected = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert all("conv2" in key for key in missing)
    assert not unexpected
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        want = plain(x)
        assert torch.allclose(deformable(x), want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


def test_large_and_small_kernels_merge():
    kernel = spread(models.create("replknet_31b").stages[0].blocks[0].large_kernel).double()
    x = torch.randn(1, 128, 20, 17, dtype=torch.float64)
    assert_close(kernel.merged()(x), kernel(x))


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_load_fairseq_and_leave_padding_out(name):
    model = models.create(name).eval()
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith("predictor.weight"):
            state[key.replace("predictor", "weight_linear")] = value.squeeze(2)
        else:
            state[key] = value.unsqueeze(1) if key.endswith("conv.weight") else value
    other = models.create(name).eval()
    other.load_state_dict(state)
    tokens = torch.randint(2, 100, (2, 11))
    tokens[1, 7:] = 1
    with torch.no_grad():
        found = model(tokens)
        assert_equal(other(tokens), found)
        alone = model(tokens[1:, :7])
    assert torch.allclose(found[1:, :7], alone, atol=1e-4)
    with pytest.raises(ValueError, match="`padding`"):
        models.create(name, tokens=3, padding=3)


def test_an_autoencoder_keeps_the_size():
    model = models.create("conv_autoencoder")
    found = model(torch.randn(2, 3, 24, 40))
    assert found.shape == (2, 3, 24, 40)
    assert bool(((found >= 0) & (found <= 1)).all())
    with pytest.raises(ValueError, match=r"`x` size \(=25\) must be a multiple of 8"):
        model(torch.randn(1, 3, 25, 40))


def test_the_page_holds_the_counts():
    lines = (ROOT / "docs" / "models.md").read_text().splitlines()
    for name, network in NETWORKS.items():
        (line,) = [line for line in lines if line.startswith(f"| `{name}` | {network.paper} |")]
        assert f"| {network.params:,} | {network.macs:,} at " in line
        assert f"| {network.published} | {network.names} |" in line


def test_the_table_counts_what_it_says(capsys):
    assert main(["effnet", "lightconv_encoder"]) == 0
    *_, image, tokens = capsys.readouterr().out.splitlines()
    page = (ROOT / "docs" / "models.md").read_text().splitlines()
    assert image in page
    assert tokens in page
    with pytest.raises(SystemExit):
        main(["no_such_network"])
    assert "there is no network 'no_such_network'" in capsys.readouterr().err


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_dropped_branches_keep_their_mean(share):
    x, dropped = torch.ones(4000, 3, 1, 1), Dropped(share)
    found = dropped(x)
    kept = found[:, 0, 0, 0] != 0
    assert_equal(found, (x * kept[:, None, None, None]) / (1 - share))
    assert abs(float(kept.float().mean()) - (1 - share)) < 0.05
    assert dropped.eval()(x) is x
    with pytest.raises(ValueError, match="`share`"):
        Dropped(1.0)
