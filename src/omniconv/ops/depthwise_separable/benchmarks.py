# SPDX-License-Identifier: Apache-2.0
"""Problems of the depthwise separable convolution that are timed: blocks of MobileNet, EfficientNet and QuartzNet."""

from __future__ import annotations

from typing import Any

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


def followed(problem: ConvProblem, activation: Any) -> Any:
    """The layer of a problem, with an activation behind each convolution."""
    from .layer import from_problem

    layer = from_problem(problem)
    layer.mid_activation = layer.activation = activation
    return layer


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
            # With biases, as in trained networks whose norms are folded
            "dwsepb_112_32to64": (
                "depthwise_separable:n1_c32_o64_i112x112_k3x3_pad1_b_depthwise-bias=1_multiplier=1",
                "cf.relu cl.relu cl.bf16.relu cf.relu.train cl.relu.train",
            ),
            "dwsepb_s2_112_64to128": (
                "depthwise_separable:n1_c64_o128_i112x112_k3x3_s2x2_pad1_b_depthwise-bias=1_multiplier=1",
                "cf.relu6 cl.relu6",
            ),
            "dwsepb_56_128to128": (
                "depthwise_separable:n1_c128_o128_i56x56_k3x3_pad1_b_depthwise-bias=1_multiplier=1",
                "cf.relu cl.relu cf.relu.add cl.relu.add cl.relu.add.train",
            ),
            "dwsepb_28_256to256_b8": (
                "depthwise_separable:n8_c256_o256_i28x28_k3x3_pad1_b_depthwise-bias=1_multiplier=1",
                "cf.relu6 cl.relu6 cl.relu6.train",
            ),
            "dwsepb_14_512to512": (
                "depthwise_separable:n1_c512_o512_i14x14_k3x3_pad1_b_depthwise-bias=1_multiplier=1",
                "cf.relu cl.relu cl.silu.add cl.bf16.relu",
            ),
            "dwsepb_7_1024to1024": (
                "depthwise_separable:n1_c1024_o1024_i7x7_k3x3_pad1_b_depthwise-bias=1_multiplier=1",
                "cf.relu cl.relu cl.relu.add",
            ),
            "dwsepb_k33_400_256to256": (
                "depthwise_separable:n1_c256_o256_i400_k33_pad16_b_depthwise-bias=1_multiplier=1",
                "cf.relu.add cl.relu.add cf.relu.train",
            ),
        },
    },
    plain,
    followed=followed,
)
