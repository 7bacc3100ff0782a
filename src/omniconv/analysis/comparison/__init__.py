# SPDX-License-Identifier: Apache-2.0
"""Every convolution at one layer position: counted, measured, shown."""
