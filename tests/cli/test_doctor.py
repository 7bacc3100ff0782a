# SPDX-License-Identifier: Apache-2.0
"""``omniconv doctor``: what is installed, what the machine can do, what is missing."""

from __future__ import annotations

import dataclasses
import json
from importlib import metadata

import pytest
import torch

from omniconv.core.library import absent, isa


def test_facts(call, machine):
    result = call("doctor --json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert facts["versions"]["torch"] == metadata.version("torch")
    assert facts["torch"]["torch threads"] == torch.get_num_threads()
    assert facts["machine"]["peak"] == 1e11
    assert facts["torch"]["compiled kernels"] in (f"for x86-64-{isa()}", f"for {isa()}", absent())
    assert facts["devices"][0] == "cpu"
    assert "direct" in facts["kernels"]["conv"]
    assert result.stderr == "measuring the machine …\n"
    assert call("doctor -q").stderr == ""


def test_a_person_reads_units(call, machine):
    text = call("doctor --format human").stdout
    assert "100 GFLOP/s float32" in text
    assert "10.0 GB/s" in text
    assert "10.0 FLOP/byte" in text


def test_missing_extras_are_named(call, machine, monkeypatch):
    real = metadata.version

    def version(name):
        if name == "hypothesis":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    assert json.loads(call("doctor --json").stdout)["missing"]["dev"] == ["hypothesis"]


def test_without_torch_it_says_so_and_fails(call, monkeypatch):
    real = metadata.version

    def version(name):
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    result = call("doctor --json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["machine"] is None
    assert "torch is missing" in result.stderr


def test_noise_is_a_warning_even_when_quiet(call, machine, monkeypatch):
    noisy = dataclasses.replace(machine, noise=0.5)
    monkeypatch.setattr("omniconv.analysis.machine.measure_machine", lambda *a, **k: noisy)
    assert "warning: this machine is noisy (50%)" in call("doctor -q").stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("doctor --threads 0", "`threads` (=0)"),
        ("doctor --device cuda:99", "`device`"),
        ("doctor --dtype int8", "int8"),
    ],
)
def test_wrong_values(call, line, said):
    result = call(line)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""
