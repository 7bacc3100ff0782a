# SPDX-License-Identifier: Apache-2.0
"""Reference networks, a readable file each, built from this library's layers.

Parameters are named as in the implementation that each file cites, so that its checkpoints load with
``load_state_dict`` unchanged. Nothing is downloaded: networks start from random weights.
"""

from __future__ import annotations

import builtins
import inspect
from importlib import import_module
from typing import Any

from torch import nn

from .catalogue import NETWORKS


def list() -> builtins.list[str]:  # as timm and torchvision name theirs
    """The names that :func:`create` takes."""
    return sorted(NETWORKS)


def create(name: str, num_classes: int | None = None, **options: Any) -> nn.Module:
    """A network with random weights, in training mode.

    Args:
        name: one of :func:`list`.
        num_classes: outputs of the classifier; None for as many as the paper's data set has. Encoders have none.
        **options: what the network's own function takes besides.

    Raises:
        ValueError: there is no network of this name.
        TypeError: it takes no such option.

    Example:
        >>> create("mobilenet_v2", num_classes=10)(torch.randn(1, 3, 64, 64)).shape
        torch.Size([1, 10])
    """
    if name not in NETWORKS:
        raise ValueError(f"`name` (={name!r}) must be one of {', '.join(list())}.")
    function = getattr(import_module(f"{__name__}.{NETWORKS[name].file}"), name)
    if num_classes is not None:
        options["num_classes"] = num_classes
    unknown = [word for word in options if word not in inspect.signature(function).parameters]
    if unknown:
        known = ", ".join(inspect.signature(function).parameters) or "nothing"
        raise TypeError(f"`{unknown[0]}` is no option of {name}; it takes {known}.")
    model: nn.Module = function(**options)
    return model
