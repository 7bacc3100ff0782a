# SPDX-License-Identifier: Apache-2.0
"""What `receptive_field` takes and refuses, and that it leaves everything as it was."""

from __future__ import annotations

import copy
import random
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from omniconv.analysis.field.effective import effective_receptive_field
from omniconv.analysis.field.receptive_field import receptive_field

IMAGE = (1, 3, 16, 16)
BOTH = [receptive_field, effective_receptive_field]


class Restless(nn.Module):
    """Changes whatever a run can change, and reads values so that a run without data fails."""

    def __init__(self, reads=False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(1))
        self.runs, self.kept, self.reads = 0, [], reads

    def forward(self, x):
        self.runs += 1
        self.kept.append(x)
        self.seen.add_(1)
        self.total = self.seen + 1
        random.random()  # noqa: S311
        noise = torch.rand(1)
        y = self.norm(self.conv(x)) + nn.functional.dropout(x, training=True).mean(1, keepdim=True) * noise
        if self.reads and float(y.detach().sum()) == 0.125:
            return x
        return self.drop(y)


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        self.conv(x)
        raise KeyError("no such thing")


def state(model):
    return {
        "training": [m.training for m in model.modules()],
        "tensors": {n: (t.clone(), t._version, id(t)) for n, t in (*model.named_parameters(), *model.named_buffers())},
        "grads": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "flags": {n: p.requires_grad for n, p in model.named_parameters()},
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "modes": _get_current_dispatch_mode_stack(),
        "random": (torch.get_rng_state(), random.getstate()),
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same(one, two):
    assert one.keys() == two.keys()
    for key in one.keys() - {"tensors", "grads", "random"}:
        assert one[key] == two[key], key
    assert torch.equal(one["random"][0], two["random"][0])
    assert one["random"][1] == two["random"][1]
    for name, (value, version, identity) in one["tensors"].items():
        assert torch.equal(value, two["tensors"][name][0]), name
        assert (version, identity) == two["tensors"][name][1:], name
    for name, value in one["grads"].items():
        other = two["grads"][name]
        assert (value is None and other is None) or torch.equal(value, other), name


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize("reads", [False, True], ids=["without data", "on data"])
def test_everything_stays_as_it_was(function, reads):
    model = Restless(reads)
    model.conv.bias.requires_grad_(False)
    model.norm.eval()
    model(torch.ones(IMAGE)).sum().backward()
    runs, kept = model.runs, list(model.kept)
    before = copy.deepcopy(state(model)["attributes"]), state(model)
    function(model, IMAGE)
    assert_same(before[1], state(model))
    assert state(model)["attributes"] == before[0]
    assert (model.runs, len(model.kept)) == (runs, len(kept))
    assert not any(isinstance(t, FakeTensor) for t in (model.total, *model.kept, *model.parameters()))


@pytest.mark.parametrize("function", BOTH)
def test_an_exception_leaves_nothing_behind(function):
    model = Failing()
    before = state(model)
    with pytest.raises(KeyError, match="no such thing"):
        function(model, IMAGE)
    assert_same(before, state(model))


@pytest.mark.parametrize("reads", [False, True])
def test_twice_gives_the_same(reads):
    model = Restless(reads)
    assert receptive_field(model, IMAGE) == receptive_field(model, IMAGE)
    one, two = (effective_receptive_field(model, IMAGE, seed=3) for _ in range(2))
    assert torch.equal(one.map, two.map)


def test_the_input_is_not_changed():
    x = torch.ones(IMAGE, requires_grad=True)
    inplace = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
    before = x.detach().clone()
    receptive_field(inplace, x.detach())
    assert torch.equal(x, before)
    assert x.grad is None


class Named(NamedTuple):
    coarse: torch.Tensor
    fine: torch.Tensor


class Several(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap
        self.fine, self.coarse = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 5, 2, 2)

    def forward(self, x):
        fine = self.fine(x)
        return self.wrap(self.coarse(fine), fine)


@pytest.mark.parametrize(
    ("wrap", "coarse", "fine"),
    [
        (lambda *both: both, 0, 1),
        (lambda *both: list(both), 0, 1),
        (lambda a, b: {"out": {"low": a}, "aux": [b]}, ("out", "low"), ("aux", 0)),
        (Named, "coarse", "fine"),
    ],
    ids=["tuple", "list", "nested", "named"],
)
def test_outputs_are_chosen_by_path(wrap, coarse, fine):
    model = Several(wrap)
    assert str(receptive_field(model, IMAGE, output=coarse)) == "7×7, stride 2, start -3"
    assert str(receptive_field(model, IMAGE, output=fine)) == "3×3, stride 1, start -1"
    for output, problem in (
        (None, "must say which of 2 outputs"),
        ("no", "leads to no tensor"),
        (7, "leads to no tensor"),
    ):
        with pytest.raises(ValueError, match=problem) as error:
            receptive_field(model, IMAGE, output=output)
        assert repr(coarse) in str(error.value)
        assert repr(fine) in str(error.value)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(1, 3, 5, padding=2)

    def forward(self, image, mask):
        return self.left(image) * self.right(mask)


@pytest.mark.parametrize(
    "input",
    [(IMAGE, (1, 1, 16, 16)), (torch.ones(IMAGE), (1, 1, 16, 16)), {"image": IMAGE, "mask": torch.ones(1, 1, 16, 16)}],
)
def test_several_inputs(input):
    assert receptive_field(TwoInputs(), input).size == (3, 3)
    assert receptive_field(TwoInputs(), input, wrt=1).size == (5, 5)
    with pytest.raises(ValueError, match=r"`wrt` \(=2\) must be the place of one of 2 input tensors; use 0"):
        receptive_field(TwoInputs(), input, wrt=2)


def conv():
    return nn.Conv2d(3, 4, 3)


@pytest.mark.parametrize("function", BOTH)
@pytest.mark.parametrize(
    ("model", "input", "options", "error", "text"),
    [
        (nn.Conv2d, IMAGE, {}, TypeError, "`model` (=Conv2d) must be an nn.Module"),
        (lambda x: x, IMAGE, {}, TypeError, "must be an nn.Module"),
        (conv(), "image", {}, TypeError, "`input` (='image') must be a tensor, a shape"),
        (conv(), None, {}, TypeError, "use (1, 3, 224, 224)"),
        (conv(), (), {}, ValueError, "`input` (=()) must hold"),
        (conv(), (1, 3, 0, 8), {}, ValueError, "sizes of 1 or more"),
        (nn.Linear(8, 8), (4, 8), {}, ValueError, "`input` shape (=(4, 8)) must be (n, c, *spatial)"),
        (conv(), IMAGE, {"axes": (4,)}, ValueError, "`axes` (=(4,)) must name different dims of an input with 4"),
        (conv(), IMAGE, {"axes": (2, -2)}, ValueError, "must name different dims"),
        (conv(), IMAGE, {"axes": ()}, ValueError, "must name different dims"),
        (conv(), IMAGE, {"wrt": "x"}, ValueError, "`wrt` (='x')"),
        (conv(), (1, 4, 8, 8), {}, RuntimeError, "expected input"),
    ],
)  # fmt: skip
def test_refuses(function, model, input, options, error, text):
    with pytest.raises(error) as raised:
        function(model, input, **options)
    assert text in str(raised.value)


@pytest.mark.parametrize("layers", ["leaf", None, 1])
def test_layers_is_one_of_three(layers):
    with pytest.raises(ValueError, match=r"`layers` .* must be True, False or 'all'"):
        receptive_field(conv(), IMAGE, layers=layers)


def test_an_output_that_is_no_tensor():
    class Counts(nn.Module):
        def forward(self, x):
            return x.shape[2]

    with pytest.raises(ValueError, match="`model` returns no tensor but int"):
        receptive_field(Counts(), IMAGE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_types_and_meta_devices(dtype):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=dtype), nn.ConvTranspose2d(4, 4, 4, 2, dtype=dtype))
    expected = receptive_field(model, IMAGE)
    assert receptive_field(model.to("meta"), IMAGE) == expected
    assert receptive_field(model, torch.empty(IMAGE, dtype=dtype, device="meta")) == expected


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("function", BOTH)
def test_lazy_modules_stay_lazy(function):
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    assert function(lazy, IMAGE).size == (3, 3)
    assert lazy[0].has_uninitialized_params()
    assert lazy[1].has_uninitialized_params()
    assert type(lazy[0]) is nn.LazyConv2d
    assert lazy(torch.ones(IMAGE)).shape == (1, 4, 14, 14)


def test_parametrized_modules():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    found = receptive_field(nn.Sequential(normed), IMAGE)
    assert found.size == (3, 3)
    assert [name for name, _ in found.layers if "parametrizations" not in name] == ["0"]


def test_compiled_modules():
    found = receptive_field(torch.compile(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), IMAGE)
    assert [(name, layer.size) for name, layer in found.layers] == [("0", (3, 3)), ("1", (3, 3))]


def test_a_branch_on_values_inside_the_graph():
    class Chosen(nn.Module):
        def forward(self, x):
            return torch.cond(torch.tensor(True), torch.sin, torch.cos, (x,))

    found = receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3), Chosen()), IMAGE)
    assert found.is_global == (True, True)
    assert any("`cond` in `1` is not known here" in note for note in found.notes)


def test_inside_inference_mode():
    with torch.inference_mode():
        assert receptive_field(conv(), IMAGE).size == (3, 3)
