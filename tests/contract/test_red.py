# SPDX-License-Identifier: Apache-2.0
"""Every check of the contract is seen red: each broken thing is rejected, and the right thing beside it is not."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from contract import broken_habits, broken_operators, broken_records, broken_values  # noqa: F401  # they register
from contract.broken import BROKEN
from omniconv.core.library import absent

if not absent():
    from contract import broken_compiled  # noqa: F401

PAIRS = [(broken, problem) for broken in BROKEN for problem in broken.problems()]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    with torch.fx.experimental._config.patch(use_duck_shape=False):
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("broken", "problem"), PAIRS, ids=[f"{b}-{p.family}" for b, p in PAIRS])
def test_rejects(broken, problem, request, record_property):
    if broken.check == "check_writes_everything":
        request.getfixturevalue("poisoned_memory")
    broken.control(problem)
    with pytest.raises(broken.raises):
        broken.attempt(problem)
    record_property("rejected", broken.name)
    record_property("family", problem.family)


@pytest.mark.skipif(bool(absent()), reason=f"{absent()}, and checks of compiled kernels are shown those")
def test_every_check_is_seen_red():
    """A check that nothing broken was shown to could pass whatever it is given."""
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    modules = [importlib.import_module(f"contract.{file.stem}") for file in files if file.stem != "test_red"]
    checks = {name for module in modules for name in vars(module) if name.startswith("check_")}
    assert checks - {broken.check for broken, _ in PAIRS} == set()


def test_every_broken_thing_was_tried():
    assert [broken.name for broken in BROKEN if not broken.problems()] == []
