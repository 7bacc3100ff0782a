# SPDX-License-Identifier: Apache-2.0
"""The parts of ``dilate``: where positions stand, what slides over them, and how a step becomes one on a denser map."""
