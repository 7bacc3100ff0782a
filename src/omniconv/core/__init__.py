# SPDX-License-Identifier: Apache-2.0
"""What every family shares: problems, records, costs, the choice of a kernel, the call."""
