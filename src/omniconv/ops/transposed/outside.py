# SPDX-License-Identifier: Apache-2.0
"""Calls of ATen's transposed convolutions as problems: the arguments by name, shapes in place of tensors. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omniconv.core.problem import ConvProblem


def scattered(call: Mapping[str, Any]) -> ConvProblem | None:
    """A call of ``aten::convolution`` with ``transposed``, or of a backend's own operator; None for a gathering one."""
    if not call.get("transposed", True):
        return None
    n, c, *in_size = call["input"] if "input" in call else call["self"]
    _, per_group, *kernel_size = call["weight"]
    groups = call.get("groups", 1)
    return ConvProblem.of(
        "transposed",
        len(in_size),
        c,
        per_group * groups,
        kernel_size,
        tuple(call["stride"]),
        tuple(call["padding"]),
        tuple(call.get("dilation", (1,))),
        groups,
        bias=call.get("bias") is not None,
        transposed=True,
        output_padding=tuple(call["output_padding"]),
        in_size=tuple(in_size),
        batch=n,
    )


OUTSIDE = {
    "aten::convolution": scattered,
    "aten::convolution_overrideable": scattered,
    "aten::cudnn_convolution_transpose": scattered,
    "aten::miopen_convolution_transpose": scattered,
    "aten::slow_conv_transpose2d": scattered,
    "aten::slow_conv_transpose3d": scattered,
}
