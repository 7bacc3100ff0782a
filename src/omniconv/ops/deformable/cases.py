# SPDX-License-Identifier: Apache-2.0
"""Named problems of the deformable convolution, read by tests, benchmarks and figures."""

CASES = {
    "plain": "deformable:n2_c6_o4_i7x9_k3x3_pad1_b_head=0_mask=0_offset-groups=1",
    "modulated": "deformable:n2_c4_o3_i6x7_k3x2_pad1_b_head=0_mask=1_offset-groups=1",
    "offset_groups": "deformable:n2_c6_o4_i6x5_k2x3_pad1_head=0_mask=0_offset-groups=3",
    "both_groups": "deformable:n1_c12_o8_i6x7_k2x2_g4_pad1_b_head=0_mask=1_offset-groups=6",
    "crossed_groups": "deformable:n2_c12_o9_i5x6_k1x3_g3_pad0x1_head=0_mask=1_offset-groups=2",
    "depthwise": "deformable:n1_c5_o10_i6x6_k3x1_g5_pad1x0_head=0_mask=0_offset-groups=5",
    "uneven": "deformable:n1_c3_o4_i10x9_k2x3_s2x3_d3x2_pad2x1_b_head=0_mask=1_offset-groups=1",
    "pairs": "deformable:n1_c2_o3_i5x6_k3x2_pad2:0x0:3_head=0_mask=0_offset-groups=2",
    "tf_same": "deformable:n1_c3_o2_i7x8_k2x3_s2x3_padtf-same_head=0_mask=0_offset-groups=1",
    "reflect": "deformable:n1_c2_o3_i5x6_k2x3_pad2x1_reflect_head=0_mask=0_offset-groups=1",
    "line": "deformable:n2_c4_o6_i11_k3_s2_d2_g2_pad2_b_head=0_mask=1_offset-groups=2",
    "volume": "deformable:n1_c2_o3_i4x3x5_k2x1x3_s1x2x1_pad1x0x1_b_head=0_mask=1_offset-groups=2",
    "one_position": "deformable:n3_c2_o3_i1x1_k1x3_pad0x1_head=0_mask=0_offset-groups=1",
    "with_head": "deformable:n2_c4_o5_i6x7_k3x2_pad1_head=1_mask=1_offset-groups=2",
    "empty_batch": "deformable:n0_c4_o2_i5x5_k2x2_pad1_b_head=0_mask=1_offset-groups=2",
}
