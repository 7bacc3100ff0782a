# SPDX-License-Identifier: Apache-2.0
"""Problems of the spatially separable convolution that are timed: large kernels, depthwise and dense."""

from __future__ import annotations

from omniconv.core.benchmarks import Benchmarks, Plain
from omniconv.core.problem import ConvProblem

from .cost import WEIGHTS, passes


def plain(problem: ConvProblem) -> tuple[Plain, ...]:
    """One convolution an axis."""
    parts = passes(problem)
    return tuple(
        Plain(part, weight, "bias" if part.bias else None)
        for part, weight in zip(parts, WEIGHTS[-len(parts) :], strict=True)
    )


BENCHMARKS = Benchmarks(
    {
        "spatially separable depthwise": {  # SegNeXt
            "spsep_dw_k11_56x96": (
                "spatial_separable:n1_c96_o96_i56x56_k11x11_g96_pad5_mid=96",
                "cf cl cf.train cl.train cl.bf16",
            ),
            "spsep_dw_k21_64x64": (
                "spatial_separable:n1_c64_o64_i64x64_k21x21_g64_pad10_mid=64",
                "cf cl cf.train cl.train",
            ),
        },
        "dense": {  # Inception
            "spsep_dense_k7_17x192": ("spatial_separable:n1_c192_o192_i17x17_k7x7_pad3_mid=192", "cf cl"),
        },
    },
    plain,
)
