# SPDX-License-Identifier: Apache-2.0
"""Problems of the deformable convolution that are timed: the last stages of a detector's backbone, and groups."""

from __future__ import annotations

from omniconv.core.benchmarks import Benchmarks, Node
from omniconv.core.problem import ConvProblem


def node(problem: ConvProblem) -> Node | None:
    """ONNX has the operator for images."""
    if problem.dim != 2 or problem.padding_mode != "zeros":
        return None
    befores, afters = zip(*problem.pads(), strict=True)
    inputs = ("input", "weight", "offset", "bias" if problem.bias else "", "mask" if problem["mask"] else "")
    numbers = {
        "kernel_shape": problem.kernel_size,
        "strides": problem.stride,
        "pads": [*befores, *afters],
        "dilations": problem.dilation,
        "group": problem.groups,
        "offset_group": problem.number("offset_groups"),
    }
    return Node("DeformConv", inputs, numbers)


def _of(sizes: str, *, mask: int, groups: int = 1, offset_groups: int = 1) -> str:
    grouped = f"_g{groups}" if groups > 1 else ""
    return f"deformable:{sizes}_k3x3{grouped}_pad1_b_head=0_mask={mask}_offset-groups={offset_groups}"


_BOTH = "cf cl cf.train cl.train"

BENCHMARKS = Benchmarks(
    {
        "deformable 2-D": {
            "deform1_56x64": (_of("n1_c64_o64_i56x56", mask=0), _BOTH),
            "deform2_56x64": (_of("n1_c64_o64_i56x56", mask=1), f"{_BOTH} cf.bf16 cl.bf16 cl.bf16.train"),
            "deform2_50x68x256": (_of("n1_c256_o256_i50x68", mask=1), _BOTH),
            "deform2_14x256_b8": (_of("n8_c256_o256_i14x14", mask=1), _BOTH),
            "deform2_q4_28x128": (_of("n1_c128_o128_i28x28", mask=1, offset_groups=4), _BOTH),
        },
        "deformable groups": {
            "deform2_grp32_56x128": (_of("n1_c128_o128_i56x56", mask=1, groups=32), _BOTH),
            "deform2_dw_56x64": (_of("n1_c64_o64_i56x56", mask=1, groups=64), _BOTH),
        },
    },
    node=node,
)
