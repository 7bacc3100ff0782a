# SPDX-License-Identifier: Apache-2.0
"""The weights of fairseq's dynamic convolutions, which are one linear layer, as those of this library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from omniconv.core.numbers import integer

_NAMES = {"weight_linear.weight", "weight_linear.bias", "conv_bias"}


def from_weights(
    state_dict: Mapping[str, Tensor], heads: int, channels: int | None, prefix: str, *, in_proj: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The arguments that a layer's weights decide, and the weights under its own names.

    The rows of the linear layer are, with ``in_proj``, C that make the values, and then K for each head.

    Raises:
        ValueError: names or shapes that are not those of a dynamic convolution with that many heads.
    """
    held = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
    if "weight_linear.weight" not in held or not held.keys() <= _NAMES:
        raise ValueError(f"`state_dict` names (={sorted(held)}) must be among {sorted(_NAMES)}; see `prefix`.")
    weight, biases = held["weight_linear.weight"], held.get("weight_linear.bias")
    c = weight.shape[1] if channels is None else integer("channels", channels, 1)
    skip = c if in_proj else 0
    kernel_size, left_over = divmod(weight.shape[0] - skip, integer("heads", heads, 1))
    if left_over or kernel_size < 1:
        raise ValueError(
            f"`weight_linear.weight` shape (={tuple(weight.shape)}) must have {skip} rows and then a multiple of "
            f"`heads` (={heads}); check `heads` and `in_proj`."
        )
    own = {"predictor.weight": weight[skip:].unsqueeze(2)}
    if in_proj:
        own["in_proj.weight"] = weight[:c].unsqueeze(2)
        own["in_proj.bias"] = weight.new_zeros(c) if biases is None else biases[:c]
    if biases is not None:
        own["predictor.bias"] = biases[skip:]
    if "conv_bias" in held:
        own["bias"] = held["conv_bias"]
    arguments = {
        "channels": c,
        "kernel_size": kernel_size,
        "bias": "conv_bias" in held,
        "device": weight.device,
        "dtype": weight.dtype,
        "query_channels": None if weight.shape[1] == c else weight.shape[1],
        "predictor_bias": biases is not None,
    }
    return arguments, own
