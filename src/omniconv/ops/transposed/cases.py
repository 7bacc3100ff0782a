# SPDX-License-Identifier: Apache-2.0
"""Named problems of the transposed convolution, read by tests, benchmarks and figures."""

CASES = {
    "doubling": "transposed:n2_c6_o4_i5x7_k4x4_s2x2_pad1_t_b",
    "one_step": "transposed:n2_c3_o5_i6x8_k3x3_pad1_t_b",
    "output_padding": "transposed:n1_c4_o3_i4x6_k3x3_s2x3_pad1_op1x2_t_b",
    "uneven": "transposed:n2_c4_o6_i5x4_k5x2_s3x1_d1x3_pad2x1_t",
    "dilated": "transposed:n1_c3_o2_i6x5_k3x2_s2x2_d2x3_pad1x0_op1x2_t_b",
    "grouped": "transposed:n2_c6_o8_i5x4_k3x4_s2x2_g2_pad1_t_b",
    "depthwise": "transposed:n2_c9_o9_i6x5_k4x4_s2x2_g9_pad1_t_b",
    "depthwise_multiplier_1d": "transposed:n2_c3_o6_i9_k5_s2_g3_pad2_op1_t",
    "one_d": "transposed:n2_c5_o3_i8_k4_s3_pad1_t_b",
    "three_d": "transposed:n1_c2_o3_i3x4x2_k3x2x4_s2x1x2_pad1x0x1_op1x0x0_t_b",
    "crop_before": "transposed:n1_c3_o2_i4x5_k5x4_s2x2_pad3:1x2:1_t_b",
    "crop_after": "transposed:n1_c3_o2_i4x5_k5x4_s2x2_pad0:2x1:2_op1x1_t_b",
    "same": "transposed:n1_c3_o4_i5x4_k3x4_s2x3_padsame_t_b",
    "same_lower": "transposed:n1_c2_o3_i5x4_k3x4_s2x3_padsame-lower_t",
    "same_gaps": "transposed:n2_c3_o2_i4x3_k2x1_s3x4_padtf-same_t_b",
    "causal": "transposed:n2_c4_o6_i7_k7_s3_padcausal_t_b",
    "causal_dilated": "transposed:n1_c4_o4_i8_k3_s2_d3_g4_padcausal_t",
    "one_position": "transposed:n3_c4_o2_i1x1_k3x3_s2x2_t",
    "empty_batch": "transposed:n0_c4_o2_i3x3_k3x3_s2x2_pad1_op1x1_t_b",
}
