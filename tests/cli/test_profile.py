# SPDX-License-Identifier: Apache-2.0
"""``omniconv profile``: models from files and modules, conditions, and models that are none."""

from __future__ import annotations

import json
import sys

import pytest

SOURCE = """
import torch
from torch import nn
from beside import channels

def net():
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.Conv2d(channels, 16, 1)),
    )

class Two(nn.Module):
    def forward(self, a, b):
        return torch.nn.functional.conv1d(a, b)

class Odd(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real

class Space:
    inner = staticmethod(net)

made = net()
number = 3
def nothing():
    return None
def fails():
    raise OSError("no weights here")
"""
MACS = 8 * 3 * 9 * 64 + 8 * 9 * 64 + 8 * 16 * 64
PARAMS = 8 * 3 * 9 + 8 * 9 + 8 + 8 * 16 + 16


@pytest.fixture(autouse=True)
def _machine(machine):
    """Nothing is measured here."""


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("net", "beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "beside.py").write_text("channels = 8\n")
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    yield path
    for name in ("net", "beside"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["net", "made", "Space.inner"])
def test_a_file(call, net, name):
    result = call(f"profile {net}:{name} --input 1,3,8,8 --json")
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["schema"], facts["macs"], facts["params"], facts["status"]) == (1, MACS, PARAMS, "complete")
    assert [row["macs"] for row in facts["rows"] if row["macs"]] == [8 * 3 * 9 * 64, 8 * 9 * 64, 8 * 16 * 64]


def test_a_module_in_the_working_folder(call, net, monkeypatch):
    monkeypatch.chdir(net.parent)
    assert json.loads(call("profile net:net -i 1,3,8,8 --json").stdout)["macs"] == MACS


def test_two_inputs(call, net):
    facts = json.loads(call(f"profile {net}:Two -i 1,4,9 -i 5,4,3 --json").stdout)
    assert facts["macs"] == 7 * 5 * 4 * 3


def test_forms(call, net):
    line = f"profile {net}:net -i 1,3,8,8"
    table = call(line).stdout.splitlines()
    assert len({row.count("\t") for row in table}) == 1
    human = call(f"{line} --format human").stdout
    assert "depthwise" in human
    assert "13.8 k" in human
    assert call(f"{line} --format md").stdout.startswith("| layer")


def test_top_shows_few_and_totals_all(call, net):
    line = f"profile {net}:net -i 1,3,8,8 --top 1"
    facts = json.loads(call(f"{line} --json").stdout)
    assert facts["macs"] == MACS
    assert [row["macs"] for row in facts["rows"]] == [8 * 3 * 9 * 64]
    human = call(f"{line} --format human").stdout
    assert "pointwise" in human.split("other calls")[1]


def test_depth_sums(call, net):
    human = call(f"profile {net}:net -i 1,3,8,8 --depth 1 --format human").stdout
    assert "depthwise, pointwise" in human


def test_time(call, net, tmp_path):
    page = tmp_path / "p.html"
    facts = json.loads(call(f"profile {net}:net -i 1,3,8,8 --time --json --html {page}").stdout)
    assert facts["machine"]["peak"] == 1e11
    assert facts["time_ms"] > 0
    assert "<table>" in page.read_text()


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("macs<=13.824k", 3),
        (f"macs<={MACS}", 0),
        (f"macs<{MACS}", 3),
        (f"macs>={MACS}", 0),
        (f"macs=={MACS}", 0),
        (f"params=={PARAMS}", 0),
        (f"params>{PARAMS}", 3),
        ("macs<=1G", 0),
        ("time_ms<=100", 3),
    ],
)
def test_conditions(call, net, condition, code):
    result = call(f"profile {net}:net -i 1,3,8,8 --json --assert {condition}")
    assert result.exit_code == code
    assert json.loads(result.stdout)["macs"] == MACS
    assert (condition in result.stderr) == bool(code)


def test_a_condition_on_what_was_not_all_counted_does_not_hold(call, net):
    assert json.loads(call(f"profile {net}:Odd -i 1,8 --json").stdout)["status"] == "partial"
    result = call(f"profile {net}:Odd -i 1,8 --assert macs<=1M")
    assert result.exit_code == 3
    assert "is not known" in result.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("profile {} -i 1,3,8,8", 2, "must be package.module:callable or file.py:callable"),
        ("profile {}:nett -i 1,3,8,8", 2, "has no 'nett'; use 'net'"),
        ("profile {}:number -i 1,3,8,8", 2, "must be a torch.nn.Module or return one, not int"),
        ("profile {}:nothing -i 1,3,8,8", 2, "returned a NoneType"),
        ("profile {}:fails -i 1,3,8,8", 1, "OSError: no weights here"),
        ("profile {}x.py:net -i 1,3,8,8", 2, "is not a file"),
        ("profile no.such.module:net -i 1,3,8,8", 2, "there is no module 'no'"),
        ("profile {}:net", 2, "Missing option"),
        ("profile {}:net -i 1,3,a", 2, "must be the sizes of a tensor"),
        ("profile {}:net -i 1,4,8,8", 1, "RuntimeError"),
        ("profile {}:net -i 1,3,8,8 --depth 0", 2, "--depth"),
        ("profile {}:net -i 1,3,8,8 --assert fast", 2, "must be like macs<=600M"),
        ("profile {}:net -i 1,3,8,8 --assert speed<=3", 2, "the quantities are params, macs"),
    ],
)
def test_what_goes_wrong(call, net, line, code, said):
    result = call(line.format(net))
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
