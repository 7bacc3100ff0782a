# SPDX-License-Identifier: Apache-2.0
"""Problems of the dynamic convolution that are timed: the paper's layers, 4096 positions each; involution; a step."""

from __future__ import annotations

from dataclasses import replace

from omniconv.core.benchmarks import Benchmarks, Plain
from omniconv.core.problem import ConvProblem

from .cost import for_all_positions


def plain(problem: ConvProblem) -> tuple[Plain, ...]:
    """A depthwise convolution whose kernels vary; () where one serves all positions, or borders are renormalised."""
    if problem.get("renorm_padding", 0) or problem.get("predictor", 0) or for_all_positions(problem):
        return ()
    depthwise = replace(problem, family="conv", special=())
    repeat = problem.in_channels // problem.number("heads")
    bias = "bias" if problem.bias else None
    return (Plain(depthwise, "weight", bias, softmax=bool(problem["softmax"]), repeat=repeat, varies=True),)


def _of(channels: int, heads: int, taps: int, *, sizes: str = "n8", length: int = 512, padding: str = "same") -> str:
    size = f"{sizes}_c{channels}_o{channels}_i{length}_k{taps}_g{channels}_pad{padding}"
    return f"dynamic:{size}_heads={heads}_softmax=1"


def _involution(channels: int, size: int, heads: int, *, batch: int = 1) -> str:
    sizes = f"n{batch}_c{channels}_o{channels}_i{size}x{size}_k7x7_g{channels}_pad3"
    return f"dynamic:{sizes}_heads={heads}_softmax=0"


_BOTH = "cf cl cf.train cl.train"

BENCHMARKS = Benchmarks(
    {
        "dynamic 1-D": {
            "dynamic_k3_512h8": (_of(512, 8, 3), _BOTH),
            "dynamic_k7_512h8": (_of(512, 8, 7), _BOTH),
            "dynamic_k15_512h8": (_of(512, 8, 15), "cf cl"),
            "dynamic_k31_512h8": (_of(512, 8, 31), _BOTH),
            "dynamic_k15_1024h16": (_of(1024, 16, 15), f"{_BOTH} cf.bf16 cl.bf16"),
            "dynamic_step_512h8": (_of(512, 8, 15, sizes="n1", length=15, padding="0"), "cf cl"),
        },
        "involution 2-D": {
            "involution_k7_56x64h4": (_involution(64, 56, 4), _BOTH),
            "involution_k7_14x256h16_b8": (_involution(256, 14, 16, batch=8), "cf cl"),
        },
    },
    plain,
)
