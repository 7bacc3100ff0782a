# SPDX-License-Identifier: Apache-2.0
"""Named problems timed beside other libraries: each answer checked first, each time beside the machine's roofline."""
