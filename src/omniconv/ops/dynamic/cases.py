# SPDX-License-Identifier: Apache-2.0
"""Named problems of the dynamic convolution, read by tests, benchmarks and figures."""

CASES = {
    "paper": "dynamic:n2_c8_o8_i13_k5_g8_padsame_heads=4_softmax=1",
    "raw": "dynamic:n2_c6_o6_i11_k4_g6_padsame_b_heads=3_softmax=0",
    "causal": "dynamic:n5_c8_o8_i12_k3_d3_g8_padcausal_b_heads=2_softmax=0",
    "strided": "dynamic:n1_c9_o9_i16_k5_s3_g9_pad2_heads=3_softmax=1",
    "renormed": "dynamic:n3_c4_o4_i6_k9_g4_padcausal_heads=2_renorm-padding=1_softmax=1",
    "renormed_image": "dynamic:n1_c6_o6_i7x9_k3x4_s1x2_d2x1_g6_pad2x2:1_b_heads=3_renorm-padding=1_softmax=1",
    "one_head": "dynamic:n2_c5_o5_i10_k3_g5_heads=1_softmax=0",
    "depthwise": "dynamic:n1_c3_o3_i8_k3_g3_pad1_b_heads=3_softmax=1",
    "wide_heads": "dynamic:n2_c48_o48_i7_k13_g48_padcausal_b_heads=2_softmax=1",
    "circular": "dynamic:n3_c4_o4_i9_k5_g4_padsame_circular_heads=2_softmax=0",
    "sequence": "dynamic:n5_c6_o6_i9_k3_g6_padsame_context=sequence_heads=2_softmax=1",
    "sequence_raw": "dynamic:n7_c4_o4_i5x6_k3x2_g4_pad1x0:1_context=sequence_heads=2_softmax=0",
    "involution": "dynamic:n4_c8_o8_i7x9_k3x5_g8_pad1x2_b_heads=2_softmax=0",
    "layer": "dynamic:n2_c6_o6_i8x7_k3x3_g6_pad1_heads=3_predictor=1_softmax=1",
    "tf_same": "dynamic:n7_c4_o4_i9x17_k3x4_s2x3_g4_padtf-same_heads=2_softmax=0",
    "volume": "dynamic:n1_c6_o6_i5x7x8_k3x1x3_g6_pad1x0x1_b_heads=3_softmax=1",
    "empty_batch": "dynamic:n0_c4_o4_i5x6_k3x3_g4_pad1_b_heads=2_softmax=1",
}
