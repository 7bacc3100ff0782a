# SPDX-License-Identifier: Apache-2.0
"""Named problems of the spatially separable convolution, read by tests, benchmarks and figures."""

CASES = {
    "dense": "spatial_separable:n2_c6_o4_i9x11_k3x3_pad1_b_mid=4",
    "wide_middle": "spatial_separable:n1_c3_o5_i8x7_k3x5_pad1x2_mid=9",
    "uneven": "spatial_separable:n2_c4_o6_i10x9_k5x2_s2x3_d1x2_pad2x1_b_mid=3",
    "depthwise": "spatial_separable:n2_c9_o9_i9x8_k5x3_g9_pad2x1_b_mid=9",
    "depthwise_strided": "spatial_separable:n1_c5_o10_i9x8_k3x3_s2x2_g5_pad1_mid=10",
    "grouped": "spatial_separable:n2_c4_o8_i7x6_k3x4_g2_pad1_b_mid=6",
    "pairs": "spatial_separable:n1_c3_o4_i8x9_k3x4_pad0:2x1:0_b_mid=3",
    "same_even": "spatial_separable:n1_c3_o2_i8x9_k4x2_d1x3_padsame_mid=2",
    "tf_same": "spatial_separable:n1_c3_o4_i8x9_k3x4_s2x3_padtf-same_b_mid=3",
    "causal_rows": "spatial_separable:n1_c2_o3_i7x6_k3x3_padcausalxsame_mid=2",
    "reflect": "spatial_separable:n2_c3_o4_i6x7_k5x3_pad2:3x1_reflect_b_mid=3",
    "circular": "spatial_separable:n1_c2_o3_i5x4_k3x5_pad1x4:2_circular_mid=2",
    "three_d": "spatial_separable:n1_c2_o3_i5x6x7_k3x2x3_s2x1x2_pad1x0x1_b_mid=4",
    "three_d_depthwise": "spatial_separable:n1_c4_o4_i4x5x6_k3x3x3_d1x2x1_g4_padsame_b_mid=4",
    "empty_batch": "spatial_separable:n0_c4_o2_i5x5_k3x3_pad1_b_mid=2",
}
