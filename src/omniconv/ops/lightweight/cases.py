# SPDX-License-Identifier: Apache-2.0
"""Named problems of the lightweight convolution, read by tests, benchmarks and figures."""

CASES = {
    "paper": "lightweight:n2_c8_o8_i17_k7_g8_padsame_heads=4_softmax=1",
    "paper_bias": "lightweight:n3_c6_o6_i9_k5_g6_pad4:0_b_heads=2_softmax=1",
    "raw": "lightweight:n2_c6_o6_i11_k4_g6_padsame_b_heads=3_softmax=0",
    "causal": "lightweight:n4_c8_o8_i12_k3_d3_g8_padcausal_heads=2_softmax=0",
    "strided": "lightweight:n1_c9_o9_i13_k5_s3_g9_pad2_heads=3_softmax=1",
    "long_kernel": "lightweight:n3_c4_o4_i7_k15_g4_pad14:0_heads=2_softmax=1",
    "one_head": "lightweight:n2_c5_o5_i10_k3_g5_heads=1_softmax=0",
    "depthwise": "lightweight:n1_c5_o5_i10_k3_g5_pad1_b_heads=5_softmax=0",
    "interleaved": "lightweight:n5_c6_o6_i9_k3_g6_pad1_head-layout=interleaved_heads=2_softmax=0",
    "image": "lightweight:n2_c8_o8_i9x11_k3x5_g8_pad1x2_b_heads=4_softmax=1",
    "image_raw": "lightweight:n4_c6_o6_i8x7_k3x2_s2x1_d1x2_g6_pad1:0x2:0_heads=3_softmax=0",
    "image_reflect": "lightweight:n1_c8_o8_i6x7_k5x3_g8_padsame_reflect_head-layout=interleaved_heads=4_softmax=1",
    "tf_same": "lightweight:n5_c4_o4_i9x8_k3x4_s2x3_g4_padtf-same_heads=2_softmax=0",
    "volume": "lightweight:n1_c6_o6_i5x4x7_k3x1x3_g6_pad1x0x1_b_heads=3_softmax=1",
    "empty_batch": "lightweight:n0_c4_o4_i5x6_k3x3_g4_pad1_b_heads=2_softmax=1",
}
