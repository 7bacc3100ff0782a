# SPDX-License-Identifier: Apache-2.0
"""Named problems of the depthwise separable convolution, read by tests, benchmarks and figures."""

CASES = {
    "plain": "depthwise_separable:n2_c6_o4_i9x11_k3x3_pad1_depthwise-bias=0_multiplier=1",
    "both_biases": "depthwise_separable:n2_c5_o7_i8x9_k3x5_pad1x2_b_depthwise-bias=1_multiplier=1",
    "first_bias": "depthwise_separable:n1_c3_o4_i6x7_k3x3_pad1_depthwise-bias=1_multiplier=2",
    "multiplier": "depthwise_separable:n1_c5_o6_i8x9_k5x3_s2x2_pad2x1_b_depthwise-bias=0_multiplier=3",
    "uneven": "depthwise_separable:n2_c4_o6_i10x7_k5x2_s2x3_d1x2_pad2x1_b_depthwise-bias=0_multiplier=1",
    "one_channel": "depthwise_separable:n2_c1_o3_i6x5_k3x3_pad1_b_depthwise-bias=0_multiplier=4",
    "one_d": "depthwise_separable:n2_c9_o5_i17_k4_s3_pad2_b_depthwise-bias=0_multiplier=1",
    "causal_1d": "depthwise_separable:n2_c4_o6_i12_k4_d3_padcausal_b_depthwise-bias=1_multiplier=2",
    "three_d": "depthwise_separable:n1_c4_o3_i5x6x4_k3x2x3_s1x2x1_pad1x0x1_b_depthwise-bias=0_multiplier=2",
    "pairs": "depthwise_separable:n1_c3_o4_i8x9_k3x4_pad0:2x1:0_b_depthwise-bias=0_multiplier=1",
    "same_even": "depthwise_separable:n1_c3_o2_i8x9_k4x2_d1x3_padsame_b_depthwise-bias=0_multiplier=1",
    "tf_same": "depthwise_separable:n1_c3_o4_i8x9_k3x4_s2x3_padtf-same_b_depthwise-bias=0_multiplier=1",
    "reflect": "depthwise_separable:n2_c3_o4_i6x7_k5x3_pad2:3x1_reflect_b_depthwise-bias=1_multiplier=1",
    "circular": "depthwise_separable:n1_c2_o3_i5x4_k3x5_pad1x4:2_circular_depthwise-bias=0_multiplier=2",
    "empty_batch": "depthwise_separable:n0_c4_o2_i5x5_k3x3_pad1_b_depthwise-bias=0_multiplier=1",
}
