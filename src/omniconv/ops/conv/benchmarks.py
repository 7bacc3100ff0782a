# SPDX-License-Identifier: Apache-2.0
"""Problems of the ordinary convolution that are timed: layers of published networks, and sizes around them."""

from __future__ import annotations

from typing import Any

from omniconv.core.benchmarks import Benchmarks, itself
from omniconv.core.problem import ConvProblem


def followed(problem: ConvProblem, activation: Any) -> Any:
    """The pointwise layer of a problem, with an activation behind it."""
    from . import is_unpadded_pointwise
    from .pointwise import PointwiseConv1d, PointwiseConv2d, PointwiseConv3d

    if not is_unpadded_pointwise(problem):
        raise ValueError(f"`problem` (={problem}) must be pointwise: only such layers have an activation.")
    numbers = (problem.in_channels, problem.out_channels, problem.stride, problem.groups, problem.bias)
    return (PointwiseConv1d, PointwiseConv2d, PointwiseConv3d)[problem.dim - 1](*numbers, activation=activation)


BENCHMARKS = Benchmarks(
    {
        "depthwise 2-D": {
            # MobileNet, EfficientNet and ConvNeXt, from their first stage to their last
            "dw3_112x32": ("conv:n1_c32_o32_i112x112_k3x3_g32_pad1", "cf cl cf.train cl.train cf.bf16 cl.bf16"),
            "dw3s2_112x64": ("conv:n1_c64_o64_i112x112_k3x3_s2x2_g64_pad1", "cf cl cf.train cl.train"),
            "dw3_28x192_b8": ("conv:n8_c192_o192_i28x28_k3x3_g192_pad1", "cf cl cf.train cl.train"),
            "dw3_14x512": ("conv:n1_c512_o512_i14x14_k3x3_g512_pad1", "cf cl"),
            "dw3d12_33x256": ("conv:n1_c256_o256_i33x33_k3x3_d12x12_g256_pad12", "cf cl"),
            "dw5_28x240": ("conv:n1_c240_o240_i28x28_k5x5_g240_pad2", "cf cl"),
            "dw5_28x240_b4": ("conv:n4_c240_o240_i28x28_k5x5_g240_pad2", "cf cl cf.train cl.train"),
            "dw7_56x96": (
                "conv:n1_c96_o96_i56x56_k7x7_g96_pad3",
                "cf cl cf.train cl.train cf.bf16 cl.bf16 cl.bf16.train",
            ),
            "dw7_14x384_b4": ("conv:n4_c384_o384_i14x14_k7x7_g384_pad3", "cf cl cf.train cl.train"),
        },
        "depthwise 31×31": {  # RepLKNet
            "dw31_56x128": ("conv:n1_c128_o128_i56x56_k31x31_g128_pad15", "cf cl cf.train cl.train"),
        },
        "depthwise 1-D": {
            "mamba_k4_1536x2048": (
                "conv:n1_c1536_o1536_i2048_k4_g1536_padcausal",
                "cf cl cf.train cl.train cf.bf16 cl.bf16",
            ),
            "vocos_k7_512x940": ("conv:n1_c512_o512_i940_k7_g512_pad3", "cf cl cf.train cl.train"),
            "conformer_k15_256x400_b8": ("conv:n8_c256_o256_i400_k15_g256_pad7", "cf cl cf.train cl.train"),
            "conformer_k31_512x400_b8": (
                "conv:n8_c512_o512_i400_k31_g512_pad15",
                "cf cl cf.train cl.train cl.bf16",
            ),
        },
        "depthwise 3-D": {  # X3D
            "dw3d_16x28x96": ("conv:n1_c96_o96_i16x28x28_k3x3x3_g96_pad1", "cf cl cf.train cl.train"),
        },
        "small groups": {  # ResNeXt and RegNet: 4 and 8 channels a group
            "grp32_56x128": ("conv:n1_c128_o128_i56x56_k3x3_g32_pad1", "cf cl cf.train cl.train cl.bf16"),
            "grp32_28x256_b8": ("conv:n8_c256_o256_i28x28_k3x3_g32_pad1", "cf cl cf.train cl.train"),
        },
        "groups of 16": {
            "grp32_14x512": ("conv:n1_c512_o512_i14x14_k3x3_g32_pad1", "cf cl cf.train cl.train"),
        },
        "tiny": {
            "tiny_dw3_7x32": ("conv:n1_c32_o32_i7x7_k3x3_g32_pad1", "cf cl cf.train"),
            "tiny_pw_7x32": ("conv:n1_c32_o32_i7x7_k1x1", "cf cl"),
            "tiny_mamba_step_1536": ("conv:n1_c1536_o1536_i4_k4_g1536", "cf"),
        },
        "dense": {  # torch is near the roofline here: what counts is to add nothing to its time
            "std2d_stem7s2_224": ("conv:n1_c3_o64_i224x224_k7x7_s2x2_pad3", "cf"),
            "std2d_3x3_56x64": ("conv:n1_c64_o64_i56x56_k3x3_pad1", "cf cl cl.bf16"),
            "std2d_3x3_14x64": ("conv:n1_c64_o64_i14x14_k3x3_pad1", "cf cl"),
            "std2d_3x3_28x128_b8": ("conv:n8_c128_o128_i28x28_k3x3_pad1", "cf.train cl.train"),
            "std1d_k3_256x400_b8": ("conv:n8_c256_o256_i400_k3_pad1", "cf cl"),
            "std3d_3x3x3_16x56x32": ("conv:n1_c32_o32_i16x56x56_k3x3x3_pad1", "cf cl"),
            "dil2_2d_28x256": ("conv:n1_c256_o256_i28x28_k3x3_d2x2_pad2", "cf cl"),
            "dil12_aspp_33x512": ("conv:n1_c512_o256_i33x33_k3x3_d12x12_pad12", "cf cl"),
            "dil4_1d_k3_64x8000": ("conv:n1_c64_o64_i8000_k3_d4_pad4", "cf"),
        },
        "pointwise": {
            "pw_56_64to256": ("conv:n1_c64_o256_i56x56_k1x1", "cf cl"),
            "pw_14_512to512": ("conv:n1_c512_o512_i14x14_k1x1", "cf cl cl.bf16"),
            "pw_28_192to32_b8": ("conv:n8_c192_o32_i28x28_k1x1", "cf.train cl.train"),
            # With a bias, as in trained networks whose norms are folded. ResNet
            "pwb_56_64to256": (
                "conv:n1_c64_o256_i56x56_k1x1_b",
                "cf.relu cl.relu cl.bf16.relu cf.relu.train cl.relu.train",
            ),
            "pwb_56_64to256_b8": ("conv:n8_c64_o256_i56x56_k1x1_b", "cf.relu.add cl.relu.add"),
            "pwb_56_256to64": ("conv:n1_c256_o64_i56x56_k1x1_b", "cf.relu.add cl.relu.add cl.relu.add.train"),
            "pwb_s2_28_256to512": ("conv:n1_c256_o512_i28x28_k1x1_s2x2_b", "cf cl"),
            # MobileNet and EfficientNet
            "pwb_14_512to512": ("conv:n1_c512_o512_i14x14_k1x1_b", "cf.relu cl.relu cl.bf16.relu"),
            "pwb_112_16to96": ("conv:n1_c16_o96_i112x112_k1x1_b", "cf.relu6 cl.relu6 cl.relu6.train"),
            "pwb_28_192to32_b8": ("conv:n8_c192_o32_i28x28_k1x1_b", "cf.add cl.add cl.bf16.add cl.add.train"),
            "pwb_14_384to96": ("conv:n1_c384_o96_i14x14_k1x1_b", "cf.add cl.add"),
            "pwb_7_160to960": ("conv:n1_c160_o960_i7x7_k1x1_b", "cf.hardswish cl.hardswish cl.silu"),
            "pwb_7_960to320": ("conv:n1_c960_o320_i7x7_k1x1_b", "cf cl"),
            "linear_1280to1000_b8": ("conv:n8_c1280_o1000_i1x1_k1x1_b", "cl"),
            # The two layers of ConvNeXt's block
            "pwb_14_384to1536": (
                "conv:n1_c384_o1536_i14x14_k1x1_b",
                "cf.gelu cl.gelu cl.bf16.gelu cf.gelu.train cl.gelu.train",
            ),
            "pwb_14_1536to384": ("conv:n1_c1536_o384_i14x14_k1x1_b", "cf.add cl.add cl.add.train"),
            "pwb_14_384to1536_b8": ("conv:n8_c384_o1536_i14x14_k1x1_b", "cf.gelu cl.gelu"),
            # A sequence
            "pwb_400_512to512": ("conv:n1_c512_o512_i400_k1_b", "cf.silu cl.silu cf.silu.train"),
        },
    },
    itself,
    followed=followed,
)
