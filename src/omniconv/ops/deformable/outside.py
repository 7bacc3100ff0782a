# SPDX-License-Identifier: Apache-2.0
"""Calls of torchvision's operator as problems: the arguments by name, shapes in place of tensors. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omniconv.core.problem import ConvProblem


def torchvision_call(call: Mapping[str, Any]) -> ConvProblem:
    """A call of ``torchvision::deform_conv2d``, which adds a bias always, of zeros where it was given none."""
    n, c, *in_size = call["input"]
    o, _, *kernel_size = call["weight"]
    return ConvProblem.of(
        "deformable",
        2,
        c,
        o,
        kernel_size,
        (call["stride_h"], call["stride_w"]),
        (call["pad_h"], call["pad_w"]),
        (call["dilation_h"], call["dilation_w"]),
        call["groups"],
        bias=True,
        in_size=tuple(in_size),
        batch=n,
        head=0,
        mask=int(call["use_mask"]),
        offset_groups=call["offset_groups"],
    )


OUTSIDE = {"torchvision::deform_conv2d": torchvision_call}
