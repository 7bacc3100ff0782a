# SPDX-License-Identifier: Apache-2.0
"""The convolution families, in the order of the documentation. A new family is a new folder and its name here."""

NAMES = (
    "conv",
    "transposed",
    "spatial_separable",
    "depthwise_separable",
    "deformable",
    "lightweight",
    "dynamic",
)
