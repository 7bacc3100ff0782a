# SPDX-License-Identifier: Apache-2.0
"""The command line, run in this process or in its own, and a machine whose roofline is made up."""

from __future__ import annotations

import subprocess
import sys

import click.testing
import pytest

from omniconv.analysis.machine import Machine
from omniconv.cli import cli


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("OMNICONV_LANG", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def call():
    """Run a command line given as one string; the result has stdout, stderr and exit_code."""

    def run(line):
        return click.testing.CliRunner().invoke(cli, line.split(), prog_name="omniconv")

    return run


@pytest.fixture
def process():
    """Run a program of Python in its own interpreter."""

    def run(program, *arguments, **options):
        command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **options)

    return run


@pytest.fixture
def machine(monkeypatch):
    """A machine of 100 GFLOP/s and 10 GB/s that takes no time to measure."""
    made = Machine("made up", "cpu", "float32", 1, "2", peak=1e11, bandwidths=((1e6, 1e10),), noise=0.01)
    for where in ("comparison.measure", "machine"):
        monkeypatch.setattr(f"omniconv.analysis.{where}.measure_machine", lambda *a, **k: made)
    return made
