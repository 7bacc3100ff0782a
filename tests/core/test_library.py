# SPDX-License-Identifier: Apache-2.0
"""The compiled library is found, or said to be missing; its instruction set can be named, a wrong name is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from omniconv.core import library
from tree import ROOT

PROGRAM = """
import torch, omniconv.core.register
from omniconv.core import library
import omniconv.functional as OF
x = torch.arange(2 * 19 * 40.0).view(2, 19, 40) % 7 - 3
w = torch.arange(19 * 5.0).view(19, 1, 5) % 5 - 2
given = torch.nn.functional.conv1d(x, w, padding=2, groups=19)
assert torch.equal(OF.conv1d(x, w, padding=2, groups=19), given)
print(repr(library.isa()), library.absent())
"""
needs_library = pytest.mark.skipif(bool(library.absent()), reason=library.absent())


def run(program=PROGRAM, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMNICONV_")}
    kept = {"OMNICONV_LIBRARY": os.environ["OMNICONV_LIBRARY"]} if "OMNICONV_LIBRARY" in os.environ else {}
    return subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", program],
        env={**environment, **kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def levels():
    """The instruction sets that this processor has, as the refusal of another names them; best first."""
    refused = run(OMNICONV_ISA="v9")
    rule = r"ValueError: `OMNICONV_ISA` \(=v9\) must be one that this processor has; use (.*)\."
    found = re.search(rule, refused.stderr)
    assert refused.returncode == 1, refused.stderr
    assert found, refused.stderr
    return found[1].split(", ")


@needs_library
def test_every_instruction_set_that_a_refusal_names_can_be_had():
    names = levels()
    assert set(names) <= {"v2", "v3", "v4", "base"}
    for name in names:
        result = run(OMNICONV_ISA=name)
        assert (result.stdout, result.stderr) == (f"'{name}' \n", "")
    for nothing in ({}, {"OMNICONV_ISA": ""}):
        assert run(**nothing).stdout == f"'{names[0]}' \n"


@needs_library
def test_the_instruction_set_that_was_asked_for_runs():
    """What `make test-isa` asks for is what it tests."""
    assert library.isa() == os.environ.get("OMNICONV_ISA", library.isa()) != ""


def test_a_hidden_library_is_not_warned_of():
    result = run(OMNICONV_NATIVE="0")
    assert (result.stdout, result.stderr) == (f"'' {library.HIDDEN}\n", "")


def test_a_library_that_is_missing_or_broken_is_warned_of_once(tmp_path):
    (tmp_path / "broken.so").write_text("no library")
    for name, said in (("missing.so", "there is no "), ("broken.so", "the compiled library does not load (")):
        result = run(OMNICONV_LIBRARY=str(tmp_path / name))
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(f"'' {said}")
        assert result.stderr.count("RuntimeWarning: omniconv: ") == 1
        assert f"RuntimeWarning: omniconv: {said}" in result.stderr
        assert "everything computes through ATen" in result.stderr


def test_these_tests_do_not_start_without_the_library(tmp_path):
    environment = {**os.environ, "OMNICONV_LIBRARY": str(tmp_path / "missing.so"), "OMNICONV_NATIVE": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/core/test_library.py"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert re.search(r"there is no \S+missing.so, so its kernels cannot be tested; OMNICONV_NATIVE=0", result.stderr)
