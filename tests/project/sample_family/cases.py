# SPDX-License-Identifier: Apache-2.0
"""Named problems of blur pooling."""

CASES = {
    "square": "blur:n2_c5_o5_i9x11_k3x3_s2x2_g5_pad1",
    "uneven": "blur:n1_c4_o4_i10x7_k5x2_s2x3_d1x2_g4_pad2x1",
    "line": "blur:n2_c3_o3_i17_k4_s3_g3_pad2:1",
    "volume": "blur:n1_c2_o2_i5x6x7_k3x2x3_g2_pad1x0x1",
    "same": "blur:n1_c6_o6_i8x8_k3x3_s2x2_g6_padtf-same",
    "empty_batch": "blur:n0_c4_o4_i5x5_k3x3_g4_pad1",
}
