# SPDX-License-Identifier: Apache-2.0
"""Problems of the lightweight convolution that are timed: the layers of the paper, 4096 positions each."""

from __future__ import annotations

from dataclasses import replace

from omniconv.core.benchmarks import Benchmarks, Plain
from omniconv.core.problem import ConvProblem


def plain(problem: ConvProblem) -> tuple[Plain, ...]:
    """A depthwise convolution, each head's kernel repeated for its channels; () where heads are interleaved."""
    if problem.get("head_layout", "block") != "block":
        return ()
    depthwise = replace(problem, family="conv", special=())
    repeat = problem.in_channels // problem.number("heads")
    bias = "bias" if problem.bias else None
    return (Plain(depthwise, "weight", bias, softmax=bool(problem["softmax"]), repeat=repeat),)


def _of(channels: int, heads: int, taps: int) -> str:
    return f"lightweight:n8_c{channels}_o{channels}_i512_k{taps}_g{channels}_padsame_heads={heads}_softmax=1"


BENCHMARKS = Benchmarks(
    {
        "lightweight 1-D": {
            "light_k3_512h8": (_of(512, 8, 3), "cf cl cf.train cl.train"),
            "light_k7_512h8": (_of(512, 8, 7), "cf cl cf.train cl.train"),
            "light_k15_512h8": (_of(512, 8, 15), "cf cl"),
            "light_k31_512h8": (_of(512, 8, 31), "cf cl cf.train cl.train"),
            "light_k15_1024h16": (_of(1024, 16, 15), "cf cl cf.train cl.train cf.bf16"),
        },
    },
    plain,
)
