# SPDX-License-Identifier: Apache-2.0
"""What the reference code of torchvision and timm names its parameters: a digest for each network.

python tests/models/reference.py writes reference.json from the packages that are installed (torchvision without its
operators will do).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

FILE = Path(__file__).parent / "reference.json"


def digest(model):
    """Of the names and shapes of all parameters and buffers."""
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in model.state_dict().items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def reference_models():
    """(our name, whose, model) of each network that torchvision or timm has."""
    right = torch.library.register_fake

    def without_operators(name, *rest, **words):
        return (lambda function: function) if str(name).startswith("torchvision::") else right(name, *rest, **words)

    torch.library.register_fake = without_operators
    try:
        import timm
        import torchvision
        from torchvision.models import segmentation
    finally:
        torch.library.register_fake = right
    source = f"torchvision {torchvision.__version__.split('+')[0]}"
    own = {
        "resnet50": "resnet50",
        "resnext50_32x4d": "resnext50_32x4d",
        "mobilenet_v2": "mobilenet_v2",
        "shufflenet_v2": "shufflenet_v2_x1_0",
        "efficientnet_b0": "efficientnet_b0",
        "convnext_tiny": "convnext_tiny",
    }
    for name, theirs in own.items():
        yield name, source, getattr(torchvision.models, theirs)(weights=None)
    for name in ("fcn_resnet50", "deeplabv3_resnet50"):
        yield name, source, getattr(segmentation, name)(weights=None, weights_backbone=None)
        model = getattr(segmentation, name)(weights=None, weights_backbone=None, aux_loss=True)
        yield f"{name} aux", source, model
    yield "xception", f"timm {timm.__version__}", timm.create_model("legacy_xception")


if __name__ == "__main__":
    found = {name: {"source": source, "digest": digest(model)} for name, source, model in reference_models()}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
