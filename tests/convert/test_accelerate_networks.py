# SPDX-License-Identifier: Apache-2.0
"""Networks that nobody here wrote, accelerated: torchvision's and timm's, with random weights."""

import pytest
import torch

import foreign
import omniconv
from omniconv.convert.accelerate.replayed import Replayed
from omniconv.core.library import absent

pytestmark = pytest.mark.skipif(
    bool(foreign.missing()), reason=f"the extras `examples` and `zoo` are not installed: {foreign.missing()}"
)

needs_library = pytest.mark.skipif(bool(absent()), reason=absent())
# Side of the pictures, layers that must be there, and what must be among them.
NETWORKS = {
    "torchvision:mobilenet_v2": (64, 20, {"InvertedResidual2d": 16, "PrepackedConv": 1, "PointwiseConv2d": 1}),
    "torchvision:resnet18": (64, 21, {"PrepackedConv": 17, "Linear": 1}),
    "torchvision:convnext_tiny": (64, 59, {"Linear": 37}),
    "torchvision:shufflenet_v2_x1_0": (64, 38, {"DepthwiseSeparableConv2d": 19}),
    "torchvision:mobilenet_v3_small": (64, 40, {}),
    "torchvision:densenet121": (64, 120, {}),
    "torchvision:squeezenet1_1": (64, 26, {}),
    "torchvision:googlenet": (96, 50, {}),
    "timm:tf_efficientnet_lite0": (64, 20, {"InvertedResidual2d": 11}),
    "timm:mobilenetv3_large_100": (64, 40, {}),
    "timm:resnext26ts": (64, 25, {}),
    "timm:repvgg_a0": (64, 20, {}),
    "timm:convnext_atto": (64, 30, {}),
    "timm:mixnet_s": (64, 60, {}),
}


@needs_library
@pytest.mark.parametrize("name", NETWORKS)
def test_it_is_proved_and_replayed(name):
    side, layers, among = NETWORKS[name]
    network = foreign.create(name)
    kept = {key: value.clone() for key, value in network.state_dict().items()}
    picture = torch.randn(1, 3, side, side)
    fast = omniconv.accelerate(network, picture, seconds=0)
    assert fast.report.refused == ""
    assert len(fast.report.changes) >= layers
    kinds = [change.layer for change in fast.report.changes]
    assert {kind: kinds.count(kind) for kind in among} == among
    assert all(change.distance is not None and change.distance.holds for change in fast.report.changes)
    assert {"the inputs given", "random inputs", "another batch"} <= fast.report.whole.keys()
    assert all(distance.holds for distance in fast.report.whole.values())
    assert all(torch.equal(value, kept[key]) for key, value in network.state_dict().items())
    with torch.inference_mode():
        right = network.double()(picture.double())
        for _ in range(4):
            found = fast(picture)
            assert float((found - right).abs().max()) < 1e-4 * float(right.abs().max())
    assert isinstance(fast.network, Replayed)
    assert len([held for held in fast.network._kinds.values() if not isinstance(held, int)]) == 1


@pytest.mark.parametrize("name", ["torchvision:mobilenet_v2", "timm:mobilenetv3_large_100"])
def test_its_file_needs_no_code_of_others(name, tmp_path):
    picture = torch.randn(2, 3, 64, 64)
    fast = omniconv.accelerate(foreign.create(name), picture, seconds=0, verify=False)
    fast.save(tmp_path / "network.pt")
    loaded = omniconv.load(tmp_path / "network.pt")
    homes = {type(module).__module__.partition(".")[0] for module in loaded.modules()}
    assert homes <= {"torch", "omniconv"}
    with torch.inference_mode():
        for size in (64, 64, 64, 64, 80):
            other = torch.randn(2, 3, size, size)
            assert torch.equal(loaded(other), fast(other))
