# SPDX-License-Identifier: Apache-2.0
"""Cost, receptive field, and time: what a layer or a model takes, counted and measured."""
