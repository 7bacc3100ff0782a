# SPDX-License-Identifier: Apache-2.0
"""``omniconv accelerate``: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import omniconv

SOURCE = """
import torch
from torch import nn

class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x):
        return self.inner(x) if x.mean() > -100 else x

def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.SiLU()]
    for _ in range(4):
        layers += [nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.BatchNorm2d(64), nn.ReLU6()]
        layers += [nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5))

def gated():
    return nn.Sequential(nn.Conv2d(3, 8, 1), Gate())
"""
UNTIMED = "--seconds 0"


@pytest.fixture
def net(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "net", raising=False)
    path = tmp_path / "net.py"
    path.write_text(SOURCE)
    yield path
    sys.modules.pop("net", None)


def test_it_says_what_was_changed(call, net):
    done = call(f"accelerate {net}:net -i 1,3,48,48 {UNTIMED} --json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    layers = [change["layer"] for change in found["changes"]]
    assert layers == ["PrepackedConv", *["DepthwiseSeparableConv2d"] * 4, "Linear"]
    assert {"the inputs given", "random inputs", "another batch"} <= found["whole"].keys()
    assert all(one["ours"] <= one["allowed"] for one in found["whole"].values())
    assert found["seconds"] == {}


def test_times_stand_beside(call, net):
    done = call(f"accelerate {net}:net -i 1,3,48,48 --seconds 0.2 --json")
    assert done.exit_code == 0, done.stderr
    seconds = json.loads(done.stdout)["seconds"]
    assert {"before", "after"} <= seconds.keys()
    assert all(one["q1"] <= one["median"] <= one["q3"] for one in seconds.values())


def test_a_person_reads_columns_and_sentences(call, net):
    done = call(f"accelerate {net}:net -i 1,3,48,48 {UNTIMED} --format human")
    assert done.exit_code == 0, done.stderr
    for text in ("DepthwiseSeparableConv2d", "max|Δ|", "exact because", "the inputs given"):
        assert text in done.stdout
    korean = call(f"accelerate {net}:net -i 1,3,48,48 --dry-run --format human --lang ko")
    assert "같은 까닭" in korean.stdout


def test_a_dry_run_proves_and_times_nothing(call, net):
    done = call(f"accelerate {net}:gated -i 1,3,8,8 --dry-run --json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["whole"] == {}
    assert found["seconds"] == {}
    assert [change["name"] for change in found["changes"]] == ["0", "1.inner.0 … 1.inner.2"]
    assert found["opaque"] == {"1": "its control flow depends on what it is given"}


def test_what_it_writes_is_read_without_the_code(call, net, tmp_path):
    path = tmp_path / "net.pt"
    done = call(f"accelerate {net}:net -i 1,3,48,48 {UNTIMED} --save {path} -q")
    assert done.exit_code == 0, done.stderr
    sys.modules.pop("net")
    x = torch.randn(2, 3, 20, 20)
    network = omniconv.load(path)
    with torch.no_grad():
        assert network(x).shape == (2, 5)
    again = call(f"accelerate {net}:net -i 1,3,48,48 {UNTIMED} --save {path}")
    assert again.exit_code == 2
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{net}:net", "Missing option"),
        ("{net}:net -i 1,4,8,8", "`example_input` is not what the model takes"),
        ("{net}:net -i x", "must be"),
        ("{net}:nothing -i 1,3,8,8", "has no 'nothing'"),
        ("{net}:net -i 1,3,8,8 --save a.pt --dry-run", "exclude each other"),
        ("{net}:net -i 1,3,8,8 --layout sideways", "sideways"),
        ("{net}:gated -i 1,3,8,8 --seconds 0 --save {folder}/gated.pt", "report.opaque"),
        ("{net}:net -i 1,3,8,8 --save {folder}/nowhere/a.pt", "is no folder"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(call, net, tmp_path, arguments, said):
    done = call("accelerate " + arguments.format(net=net, folder=tmp_path))
    assert done.exit_code == 2
    assert said in done.stderr
    assert not list(tmp_path.glob("*.pt"))
    assert "Traceback" not in done.stderr
