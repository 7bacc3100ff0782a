# SPDX-License-Identifier: Apache-2.0
"""Accelerated networks as files: what they hold, and what a file may not ask for."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import omniconv


class Net(nn.Module):
    """Functions, methods, attributes, constants and layers of many kinds."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.Hardswish())
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.norm = nn.GroupNorm(2, 8)
        self.block = nn.Sequential(
            nn.Conv2d(8, 24, 1), nn.ReLU6(), nn.Conv2d(24, 24, 3, 1, 1, groups=24), nn.Conv2d(24, 8, 1)
        )
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("scale", torch.linspace(0.5, 2, 8).view(1, -1, 1, 1), persistent=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x, gain=2.0):
        x = self.up(self.stem(x)) * self.scale
        x = x + self.block(self.norm(x))
        x = F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
        rows = x.flatten(2).transpose(1, 2)
        rows = rows + self.attention(rows, rows, rows, need_weights=False)[0]
        b, _, h, w = x.shape
        x = rows.transpose(1, 2).reshape(b, -1, h, w).to(torch.float32)
        return {"scores": self.head(F.gelu(x).mean((2, 3))) * gain, "map": x[:, :2, ::2]}


@pytest.fixture
def fast():
    torch.manual_seed(0)
    return omniconv.accelerate(Net().eval(), torch.randn(1, 3, 17, 20), seconds=0)


def test_a_file_gives_the_same_network(fast, tmp_path):
    assert fast.report.refused == ""
    fast.save(tmp_path / "a.pt")
    loaded = omniconv.load(tmp_path / "a.pt")
    assert inspect.signature(loaded) == inspect.signature(fast)
    assert loaded.report["layout"] == fast.report.layout
    for size in ((1, 3, 17, 20), (2, 3, 24, 11)):
        x = torch.randn(size)
        for _ in range(4):
            with torch.no_grad():
                right, found = fast(x), loaded(x)
            assert found.keys() == right.keys()
            assert all(torch.equal(found[key], right[key]) for key in right)
    with torch.no_grad():
        assert torch.equal(loaded(x, gain=1.0)["scores"] * 2, loaded(x)["scores"])
    loaded.save(tmp_path / "b.pt")
    with torch.no_grad():
        assert torch.equal(omniconv.load(tmp_path / "b.pt")(x)["map"], right["map"])
    with pytest.raises(RuntimeError, match="computes inference only"):
        loaded.train()


def test_it_holds_plain_values_and_tensors_alone(fast, tmp_path):
    fast.save(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert content["format"] == "omniconv accelerated network"
    assert all(isinstance(value, torch.Tensor) for value in content["state"].values())


def test_a_file_is_not_overwritten_unasked(fast, tmp_path):
    path = tmp_path / "a.pt"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists"):
        fast.save(path)
    assert path.read_text() == "mine"
    fast.save(path, overwrite=True)
    omniconv.load(path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt"]


def test_what_only_its_own_code_computes_has_no_file(tmp_path):
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    fast = omniconv.accelerate(nn.Sequential(Gate()), torch.ones(1, 3, 4, 4), seconds=0)
    with pytest.raises(ValueError, match=r"report\.opaque"):
        fast.save(tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def changed(content, step, **parts):
    """The content with a call put in the place of the output's argument."""
    names = ["name", "op", "target", "args", "kwargs"]
    at = next(at for at, one in enumerate(content["steps"]) if one[1] == step)
    for key, value in parts.items():
        content["steps"][at][names.index(key)] = value
    return content


@pytest.mark.parametrize(
    ("step", "parts", "said"),
    [
        ("call_function", {"target": "torch.load"}, "no function that an accelerated network calls"),
        ("call_function", {"target": "torch.hub.load"}, "no function"),
        ("call_function", {"target": "os.system"}, "no function"),
        ("call_function", {"target": "torch.from_file"}, "no function"),
        ("call_function", {"target": "operator.call"}, "no function"),
        ("call_function", {"target": "torch.nn.functional.handle_torch_function"}, "no function"),
        ("call_method", {"target": "untyped_storage"}, "none of a tensor"),
        ("call_method", {"target": "set_"}, "none of a tensor"),
        ("call_method", {"target": "apply_"}, "none of a tensor"),
        ("call_function", {"target": "torch.nn.functional._verify_batch_size"}, "no function"),
        ("call_function", {"target": "builtins.eval"}, "no function"),
        ("call_method", {"target": "__reduce__"}, "no tensor|none of a tensor"),
        ("call_method", {"target": "nonsense"}, "none of a tensor"),
        ("call_function", {"args": {"tuple": [{"node": "nowhere"}]}}, "not known"),
        ("call_function", {"args": {"tuple": [{"code": "1"}]}}, "not known"),
        ("call_function", {"args": {"tuple": [{"dtype": "load"}]}}, "no dtype"),
    ],
)
def test_a_file_may_not_ask_for_anything_else(fast, tmp_path, step, parts, said):
    fast.save(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save(changed(content, step, **parts), tmp_path / "b.pt")
    with pytest.raises(ValueError, match=said):
        omniconv.load(tmp_path / "b.pt")


def test_a_method_is_no_attribute(fast, tmp_path):
    fast.save(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    told = {"tuple": [{"node": content["steps"][0][0]}, "untyped_storage"]}
    torch.save(changed(content, "call_function", target="getattr", args=told), tmp_path / "b.pt")
    with pytest.raises(ValueError, match="'untyped_storage', which is a method"):
        omniconv.load(tmp_path / "b.pt")(torch.randn(2, 3, 8, 8))


def test_classes_of_others_are_not_made(fast, tmp_path):
    fast.save(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    for wrong in (
        ["subprocess", "Popen"],
        ["torch", "load"],
        ["omniconv.core.replay", "Replay"],
        ["torch.jit", "ScriptModule"],
    ):
        name = next(iter(content["modules"]))
        content["modules"][name]["class"] = wrong
        torch.save(content, tmp_path / "b.pt")
        with pytest.raises(ValueError, match="no layer of torch or omniconv"):
            omniconv.load(tmp_path / "b.pt")


def test_other_files_are_refused(tmp_path):
    torch.save({"a": 1}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="is no accelerated network"):
        omniconv.load(tmp_path / "a.pt")
    torch.save({"format": "omniconv accelerated network", "version": 99, "omniconv": "9.0"}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"written by omniconv 9\.0"):
        omniconv.load(tmp_path / "b.pt")
    with pytest.raises(FileNotFoundError):
        omniconv.load(tmp_path / "c.pt")
