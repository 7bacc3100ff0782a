# SPDX-License-Identifier: Apache-2.0
"""What every layer of a model costs, counted in one pass."""
