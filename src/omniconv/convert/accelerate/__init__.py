# SPDX-License-Identifier: Apache-2.0
"""A trained network made faster with the same outputs: ``accelerated.py`` holds the function."""
