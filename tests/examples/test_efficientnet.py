# SPDX-License-Identifier: Apache-2.0
"""The example on the trained network: it runs, its expectations hold, and it notices when they do not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

import omniconv
from tree import ROOT

PATH = ROOT / "examples" / "efficientnet_lite0.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("efficientnet_lite0", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def installed(example):
    missing = [name for name in example.PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the extra `examples` is not installed: no {', '.join(missing)}")
    return example


def macs_by_hand():
    """From the table of the paper (Tan & Le, 2019), without squeeze-excite, at 224×224 with "same" padding."""
    size, channels = 112, 32
    total = size**2 * 27 * channels
    for repeats, kernel, stride, expand, out in (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ):
        for i in range(repeats):
            hidden = channels * expand
            total += size**2 * channels * hidden if expand > 1 else 0
            size = -(-size // (stride if i == 0 else 1))
            total += size**2 * hidden * (kernel**2 + out)
            channels = out
    return total + size**2 * channels * 1280 + 1280 * 1000


def test_the_expected_macs(example):
    assert macs_by_hand() == example.MACS


def test_it_runs_and_its_expectations_hold(installed, capsys, monkeypatch):
    monkeypatch.setattr(installed, "SECONDS", 0.1)
    assert installed.main() == 0
    printed = capsys.readouterr().out
    assert "4,652,008 parameters, 385,187,552 MACs, complete" in printed
    assert "ok     convolutions swapped: 49, 0 left" in printed
    assert "ok     before the swap: top-1 17, top-5 20 of 20" in printed
    assert "ok     after the swap: top-1 17, top-5 20 of 20" in printed
    assert "ok     accelerated: top-1 17, top-5 20 of 20" in printed
    assert "ok     first answers, accelerated: the same" in printed
    assert "WRONG" not in printed


def test_it_notices_another_network(installed, capsys, monkeypatch):
    def on_the_other_side(module):
        return omniconv.nn.Conv2d.from_torch(module, padding="same_lower")

    monkeypatch.setattr(installed, "SECONDS", 0.1)
    monkeypatch.setattr(installed, "with_own_padding", on_the_other_side)
    assert installed.main() == 1
    assert "WRONG  largest difference" in capsys.readouterr().out


def test_it_says_what_is_missing():
    program = f"""
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "foolbox" else find(name, *rest)
runpy.run_path({str(PATH)!r}, run_name="__main__")
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "this example needs foolbox, from the extra `examples`" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_rule_keeps_both_ways_to_pad(example):
    """The package's layer without padding holds an identity where the others hold a padding module."""

    class Pads(nn.Conv2d):
        def __init__(self, padding):
            super().__init__(3, 4, 3, stride=2)
            self.static_padding = nn.ZeroPad2d(padding) if padding else nn.Identity()

        def forward(self, x):
            return super().forward(self.static_padding(x))

    for padding in ((0, 1, 2, 1), None):
        layer, x = Pads(padding), torch.randn(2, 3, 9, 11)
        assert torch.equal(example.with_own_padding(layer)(x), layer(x))
