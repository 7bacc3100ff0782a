# SPDX-License-Identifier: Apache-2.0
"""Which input positions an output depends on: the interval algebra, the rules of operators, the trace."""
