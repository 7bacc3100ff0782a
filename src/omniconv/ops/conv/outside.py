# SPDX-License-Identifier: Apache-2.0
"""Calls of ATen's convolutions as problems: the arguments by name, shapes in place of tensors. It imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omniconv.core.problem import ConvProblem


def gathered(call: Mapping[str, Any]) -> ConvProblem | None:
    """A call of ``aten::convolution`` or of one of its backends; None for a transposed one."""
    if call.get("transposed"):
        return None
    n, c, *in_size = call["input"] if "input" in call else call["self"]
    o, per_group, *kernel_size = call["weight"]
    return ConvProblem.of(
        "conv",
        len(in_size),
        c,
        o,
        kernel_size,
        tuple(call["stride"]),
        tuple(call["padding"]),
        tuple(call.get("dilation", (1,))),
        c // per_group,
        bias=call.get("bias") is not None,
        in_size=tuple(in_size),
        batch=n,
    )


def time_first(call: Mapping[str, Any]) -> ConvProblem:
    """A call of ``aten::conv_tbc``: input (time, batch, channels), weight (k, c, o)."""
    i, n, c = call["self"]
    k, _, o = call["weight"]
    return ConvProblem.of("conv", 1, c, o, k, padding=call["pad"], bias=True, in_size=(i,), batch=n)


OUTSIDE = {
    "aten::convolution": gathered,
    "aten::convolution_overrideable": gathered,
    "aten::cudnn_convolution": gathered,
    "aten::miopen_convolution": gathered,
    "aten::miopen_depthwise_convolution": gathered,
    "aten::mkldnn_convolution": gathered,
    "aten::_conv_depthwise2d": gathered,
    "aten::conv_depthwise3d": gathered,
    "aten::_slow_conv2d_forward": gathered,
    "aten::slow_conv3d_forward": gathered,
    "aten::slow_conv_dilated2d": gathered,
    "aten::slow_conv_dilated3d": gathered,
    "aten::conv_tbc": time_first,
}
