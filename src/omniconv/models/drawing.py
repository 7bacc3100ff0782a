# SPDX-License-Identifier: Apache-2.0
"""How the weights of a new network are drawn, where its paper's code draws convolutions alike."""

from __future__ import annotations

from torch import nn


def draw_for_relu(model: nn.Module) -> None:
    """Convolutions from a normal distribution that keeps the variance of gradients behind ReLUs (He et al., 2015).

    Those that predict where others sample stay as they were made.
    """
    heads = {id(module.conv_offset) for module in model.modules() if hasattr(module, "conv_offset")}
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 2 and id(module) not in heads:
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
            bias = getattr(module, "bias", None)
            if isinstance(bias, nn.Parameter):
                nn.init.zeros_(bias)
