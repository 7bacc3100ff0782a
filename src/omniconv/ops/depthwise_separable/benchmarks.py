# SPDX-License-Identifier: Apache-2.0
"""Problems of the depthwise separable convolution that are timed: blocks of MobileNet."""

from __future__ import annotations

from omniconv.core.benchmarks import Benchmarks, Plain
from omniconv.core.problem import ConvProblem

from .cost import parts


def plain(problem: ConvProblem) -> tuple[Plain, ...]:
    """The depthwise convolution, then the pointwise one."""
    depthwise, pointwise = parts(problem)
    return (
        Plain(depthwise, "depthwise_weight", "depthwise_bias" if depthwise.bias else None),
        Plain(pointwise, "pointwise_weight", "bias" if pointwise.bias else None),
    )


BENCHMARKS = Benchmarks(
    {
        "depthwise separable": {
            "dwsep_112_32to64": (
                "depthwise_separable:n1_c32_o64_i112x112_k3x3_pad1_depthwise-bias=0_multiplier=1",
                "cf cl",
            ),
            "dwsep_28_256to256_b8": (
                "depthwise_separable:n8_c256_o256_i28x28_k3x3_pad1_depthwise-bias=0_multiplier=1",
                "cl cl.train",
            ),
        },
    },
    plain,
)
