# SPDX-License-Identifier: Apache-2.0
"""What every test starts from: the library, one thread, fixed seeds, and on request memory full of wrong numbers."""

from __future__ import annotations

import ctypes
import random
import warnings

import hypothesis
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # of a library that is missing: pytest_configure refuses to go on
    from omniconv.core import library, register  # noqa: F401  # the second loads the first

pytest_plugins = ["contract.report"]

# A deadline would make correctness depend on the speed of the machine; derandomized runs are the same everywhere.
hypothesis.settings.register_profile("omniconv", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("omniconv")


M_PERTURB = -6


def pytest_configure():
    torch.set_num_threads(1)
    if library.absent() not in ("", library.HIDDEN):
        raise pytest.UsageError(
            f"{library.absent()}, so its kernels cannot be tested; OMNICONV_NATIVE=0 tests the rest."
        )


@pytest.fixture(autouse=True)
def seeds():
    random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def poisoned_memory():
    """Fresh tensors hold NaN (or the largest integer), so an element that a kernel forgets to write shows.

    That is torch's doing; memory that a library of C++ takes for itself holds 3e38, where the C library can do that.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    perturb = getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)
    perturb(M_PERTURB, 0x80)
    yield
    perturb(M_PERTURB, 0)
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
