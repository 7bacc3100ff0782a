# SPDX-License-Identifier: Apache-2.0
"""What every test starts from: one thread, fixed seeds, and on request memory that is full of NaN."""

from __future__ import annotations

import random

import hypothesis
import pytest
import torch

pytest_plugins = ["contract.report"]

# A deadline would make correctness depend on the speed of the machine; derandomized runs are the same everywhere.
hypothesis.settings.register_profile("omniconv", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("omniconv")


def pytest_configure():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds():
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory():
    """Fresh tensors hold NaN (or the largest integer), so an element that a kernel forgets to write shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
