# SPDX-License-Identifier: Apache-2.0
"""State dicts of the same layer elsewhere, under the names of this one.

Known are two named convolutions (timm's ``conv_dw``, ``conv_pw``, ``bn``; ``depthwise``, ``pointwise``) and an
``nn.Sequential`` of a depthwise and a pointwise convolution with norms and activations after each.
"""

from __future__ import annotations

from collections.abc import Mapping

NAMED = {
    "conv_dw.weight": "depthwise_weight",
    "conv_dw.bias": "depthwise_bias",
    "conv_pw.weight": "pointwise_weight",
    "conv_pw.bias": "bias",
    "depthwise.weight": "depthwise_weight",
    "depthwise.bias": "depthwise_bias",
    "pointwise.weight": "pointwise_weight",
    "pointwise.bias": "bias",
}


def renamed(dims: Mapping[str, int], axes: int) -> dict[str, str]:
    """Return the new name of each entry that has one, from the number of dimensions of every entry of a state dict.

    Args:
        dims: entries without the layer's prefix, in order; the weight of a convolution has ``axes + 2`` dimensions.
        axes: spatial axes of the layer.
    """
    names = {name: NAMED[name] for name in dims if name in NAMED}
    if "conv_dw.weight" in dims:
        names |= {name: f"norm.{name.removeprefix('bn.')}" for name in dims if name.startswith("bn.")}
    return names | _sequential(dims, axes)


def _sequential(dims: Mapping[str, int], axes: int) -> dict[str, str]:
    numbered = {name: name.partition(".") for name in dims if name.partition(".")[0].isdigit()}
    convolutions = sorted(
        int(place) for name, (place, _, rest) in numbered.items() if rest == "weight" and dims[name] == axes + 2
    )
    if len(convolutions) != 2:
        return {}
    first, second = convolutions
    names = {}
    for name, (place, _, rest) in numbered.items():
        at = int(place)
        if at == first:
            names[name] = f"depthwise_{rest}"
        elif at == second:
            names[name] = {"weight": "pointwise_weight"}.get(rest, rest)
        else:
            names[name] = f"{'mid_norm' if at < second else 'norm'}.{rest}"
    return names
