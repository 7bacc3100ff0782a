# SPDX-License-Identifier: Apache-2.0
"""One convolution explained: formulas, numbers, kernel, proof."""
