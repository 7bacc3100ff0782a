# SPDX-License-Identifier: Apache-2.0
"""Problems of the transposed convolution that are timed: learned upsampling, each channel alone and all together."""

from omniconv.core.benchmarks import Benchmarks, itself

BENCHMARKS = Benchmarks(
    {
        "transposed depthwise": {
            "tconv_dw_k4s2_56x128": (
                "transposed:n1_c128_o128_i56x56_k4x4_s2x2_g128_pad1_t",
                "cf cl cf.train cl.train cl.bf16",
            ),
            "tconv_dw_k4s2_28x128": ("transposed:n1_c128_o128_i28x28_k4x4_s2x2_g128_pad1_t", "cf cl cf.train"),
        },
        "transposed groups": {
            "tconv_grp32_k4s2_28x128": ("transposed:n1_c128_o128_i28x28_k4x4_s2x2_g32_pad1_t", "cf cl cf.train"),
        },
        "dense": {
            "tconv_k4s2_28x128": ("transposed:n1_c128_o64_i28x28_k4x4_s2x2_pad1_t", "cf cl"),
            "tconv_k4s2_28x128_b4": ("transposed:n4_c128_o64_i28x28_k4x4_s2x2_pad1_t", "cf.train"),
            "tconv_k2s2_28x256": ("transposed:n1_c256_o128_i28x28_k2x2_s2x2_t", "cf"),
            "tconv1d_k16s8_512x128": ("transposed:n1_c512_o256_i128_k16_s8_pad4_t", "cf"),
        },
    },
    itself,
)
