# SPDX-License-Identifier: Apache-2.0
"""What a profile shows: its table, its forms, its receptive fields, what memory bounds, and times."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

import omniconv
from omniconv.analysis.machine import Machine
from omniconv.analysis.profiling.groups import together
from omniconv.analysis.profiling.replay import Recipe, Spec
from omniconv.analysis.profiling.times import WHOLE
from omniconv.analysis.timing import interleaved

MACHINE = Machine("some processor", "cpu", "float32", 1, "2.13", 1e11, ((1e3, 1e10), (1e9, 1e10)))


def network():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 32, 1)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


@pytest.fixture(scope="module")
def found():
    return omniconv.profile(network(), (2, 3, 32, 32), machine=MACHINE)


def test_rows_and_totals(found):
    products = [row for row in found.rows if row.macs]
    assert [(row.name, row.family, row.macs) for row in products] == [
        ("0.0", "standard", 2 * 256 * 16 * 27),
        ("1.0", "depthwise", 2 * 256 * 16 * 9),
        ("1.1", "pointwise", 2 * 256 * 16 * 32),
        ("4", "linear", 2 * 320),
    ]
    assert str(products[0].problem) == "conv:n2_c3_o16_i32x32_k3x3_s2x2_pad1_b"
    assert products[0].bytes == 4 * (2 * 3 * 32 * 32 + 16 * 27 + 16 + 2 * 16 * 256)
    assert [row.sizes for row in products[:3]] == [((32, 32), (16, 16)), ((16, 16), (16, 16)), ((16, 16), (16, 16))]
    assert found.params == sum(row.params for row in found.rows) == 448 + 32 + 160 + 544 + 330
    assert found.bias_adds == 2 * (256 * (16 + 16 + 32) + 10)
    assert found.by_family == {"pointwise": 262_144, "standard": 221_184, "depthwise": 73_728, "linear": 640}
    # every map is written once more by the norm and by the activation; pooling and the classifier are small
    maps = 2 * 256 * (16 * 3 + 16 + 32) + 2 * 32 + 2 * 10
    assert found.activation_bytes == 4 * (maps + 2 * 16)


def test_receptive_fields(found):
    fields = {row.name: row.receptive_field.size for row in found.rows if row.macs}
    assert fields == {"0.0": (3, 3), "1.0": (7, 7), "1.1": (7, 7), "4": (7, 7)}
    assert all(found.receptive_field.is_global)
    without = omniconv.profile(network(), (2, 3, 32, 32), receptive_field=False)
    assert without.receptive_field is None
    assert all(row.receptive_field is None for row in without.rows)


def test_receptive_fields_of_modules_with_children():
    """A convolution that pads by a module of its own, and a layer that predicts its offsets."""

    class PadsByModule(nn.Conv2d):
        def __init__(self, *args):
            super().__init__(*args)
            self.pad = nn.ZeroPad2d(1)

        def forward(self, x):
            return super().forward(self.pad(x))

    model = nn.Sequential(
        PadsByModule(3, 4, 3), omniconv.nn.DeformableConv2d(4, 4, 3, padding=1), PadsByModule(4, 4, 5)
    )
    found = omniconv.profile(model, (1, 3, 16, 16))
    fields = [(row.name, row.receptive_field.size) for row in found.rows if row.macs]
    assert fields == [("0", (3, 3)), ("1.conv_offset", (5, 5)), ("1", (5, 5)), ("2", (9, 9))]


def test_a_receptive_field_that_cannot_be_followed_is_said():
    class Misaligned(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 3, 1, 1)

        def forward(self, x):
            return self.one(x) + self.two(x)[..., :4, :4]

    found = omniconv.profile(Misaligned(), (1, 3, 8, 8))
    assert found.macs == 16 * 108 + 64 * 108
    assert any(note.startswith("no receptive field: ") for note in found.notes)


def test_whose_receptive_field_it_is_is_said_where_there_are_several():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.near, self.far = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 5)

        def forward(self, a, b):
            return self.near(a), self.far(b)

    found = omniconv.profile(Both(), ((1, 3, 8, 8), (1, 3, 9, 9)))
    assert found.receptive_field.size == (3, 3)
    assert found.notes == (
        "receptive fields are those in the first of 2 inputs",
        "the receptive field of the model is that of the first of 2 outputs",
    )
    assert [re.search(r" (3×3|none|0×0) ", line)[1] for line in repr(found).splitlines() if "far" in line] == ["none"]
    assert omniconv.profile(Both().near, (1, 3, 8, 8)).notes == ()


def test_several_outputs_and_inputs_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 5)

        def forward(self, image, scale):
            return {"map": self.conv(image), "scale": scale}

    found = omniconv.profile(Two(), {"image": (1, 3, 8, 8), "scale": (1,)})
    assert found.receptive_field.size == (5, 5)
    assert found.rows[0].receptive_field.size == (5, 5)


def test_plain_text(found):
    text = repr(found)
    lines = text.splitlines()
    assert lines[0].startswith("model")
    assert "params 1.51 k" in lines[0]
    assert "MACs 558 k (complete)" in lines[0]
    row = next(line for line in lines if line.startswith("0.0"))
    assert re.split(r"\s{2,}", row)[1:5] == ["standard", "3→16", "32×32→16×16", "×2"]
    assert "memory-bound" in next(line for line in lines if line.startswith("1.0"))
    assert "3 other calls" in text
    assert "coverage: 4 of 4 calls" in text


def test_depth(found):
    one = omniconv.profile(network(), (2, 3, 32, 32), depth=1)
    records = one.to_records()
    assert [(r["name"], r["family"], r["macs"]) for r in records] == [
        ("0", "standard", 221_184),
        ("1", "depthwise, pointwise", 335_872),
        ("2", "other", 0),
        ("4", "linear", 640),
    ]
    assert records[1]["in_channels"], records[1]["out_channels"] == (16, 32)
    assert records[1]["in_size"] == records[1]["out_size"] == [16, 16]
    assert records[1]["receptive_field"] == [7, 7]
    assert len(one.rows) == len(found.rows)
    for figure in ("macs", "params", "other_ops", "bytes"):
        assert sum(record[figure] for record in records) == getattr(found, figure)
    assert "depthwise, pointwise" in repr(one)
    assert "0.0" not in {line.split(" ")[0] for line in repr(one).splitlines()}


def test_top(found):
    few = replace(found, top=2)
    assert [r["name"] for r in few.to_records()] == ["0.0", "1.1"]
    assert (few.macs, few.to_dict()["macs"]) == (found.macs, found.macs)
    last = next(line for line in repr(few).splitlines() if line.startswith("5 other calls"))
    assert last.split()[3:6] == ["depthwise,", "linear", "16→10"]


def test_json_csv_markdown_html(found, tmp_path):
    facts = json.loads(found.to_json())
    assert facts["schema"] == 1
    assert (facts["macs"], facts["params"], facts["status"]) == (found.macs, found.params, "complete")
    assert facts["rows"][0] | {"family": "standard", "macs": 221_184, "in_size": [32, 32]} == facts["rows"][0]
    assert sum(row["share"] for row in facts["rows"]) == pytest.approx(1)
    assert facts["coverage"] == {"counted": 4, "partial": 0, "unavailable": 0}
    records = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert sum(int(record["macs"]) for record in records) == found.macs
    assert found.to_markdown().splitlines()[0].startswith("| layer")
    page = found.html(tmp_path / "profile.html").read_text()
    (inside,) = re.findall(r'<script type="application/json" id="omniconv">(.*?)</script>', page, re.DOTALL)
    assert json.loads(inside) == facts
    assert "http" not in page
    assert "<table>" in found._repr_html_()
    with pytest.raises(FileExistsError):
        found.html(tmp_path / "profile.html")


def test_bounds(found):
    depthwise = next(row for row in found.rows if row.family == "depthwise")
    ms, why = depthwise.bound(MACHINE)
    assert (ms, why) == (pytest.approx(1e3 * depthwise.bytes / 1e10), "memory")
    separable = omniconv.nn.DepthwiseSeparableConv2d(64, 256, 3, padding=1)
    (row,) = omniconv.profile(separable, (1, 64, 32, 32), receptive_field=False).rows
    steps = omniconv.cost(separable, (1, 64, 32, 32)).steps
    assert row.bound(MACHINE)[0] == pytest.approx(sum(1e3 * max(s.flops / 1e11, 4 * s.elements / 1e10) for s in steps))
    assert row.bound(MACHINE)[1] == "mixed"


def test_times(monkeypatch):
    clock = iter(range(10**9))
    taken = {}

    def fake(calls, **options):
        taken.update(calls)
        for call in calls.values():
            call()
        return interleaved(dict.fromkeys(calls, int), clock=lambda: next(clock) * 1e-3, seconds=1.0)

    monkeypatch.setattr("omniconv.analysis.profiling.times.interleaved", fake)
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), omniconv.nn.Conv2d(3, 4, 1))
    model.train().append(nn.BatchNorm2d(4))
    kept = {name: t.clone() for name, t in model.state_dict().items()}
    found = omniconv.profile(model, (1, 3, 8, 8), time=True)
    assert len(taken) == 3  # equal calls once, and the whole
    assert WHOLE in taken
    assert all((row.time is not None) == bool(row.macs) for row in found.rows)
    assert found.time.median > 0
    assert "time ms" in repr(found)
    assert found.to_dict()["rows"][0]["time_ms"] > 0
    whole = together(found.rows).time.median
    assert whole == pytest.approx(sum(row.time.median for row in found.rows if row.time))
    assert all(torch.equal(t, kept[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4, 5),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(2, 3, 4, 5, dtype=torch.bfloat16).transpose(1, 3),
        torch.randn(2, 1, 4).expand(2, 3, 4),
        torch.ones(3, dtype=torch.int64),
        torch.randn(0, 3),
        torch.randn(()),
    ],
)
def test_a_tensor_made_again(tensor):
    made = Spec.of(tensor).made()
    assert (made.shape, made.stride(), made.dtype) == (tensor.shape, tensor.stride(), tensor.dtype)
    assert bool(made.isfinite().all())
    assert made.dtype == torch.int64 or bool((made > 0).all())


def test_a_call_made_again():
    recipe = Recipe.of(torch.ops.aten.addmm.default, (torch.ones(3), torch.ones(2, 4), torch.ones(4, 3)), {"beta": 2})
    assert recipe.call()().shape == (2, 3)
