# SPDX-License-Identifier: Apache-2.0
"""A batch norm and the activation behind it, in training, beside torch's in float64."""

import copy

import pytest
import torch
from torch import nn

from omniconv.core import normed
from omniconv.core.normed import with_activation

needs_library = pytest.mark.skipif(not hasattr(torch.ops.omniconv, "batch_norm"), reason="needs the compiled library")
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
SHAPES = [
    (8, 32, 20, 20),
    (4, 19, 7, 7),
    (2, 5, 13),
    (3, 7, 3, 5, 6),
    (6, 9),
    (2, 1, 3, 1),
    (1, 33, 2, 9),
    (3, 70, 130),
]
ACTIVATIONS = [None, nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish()]


def drawn(shape, last, dtype=torch.float32):
    x = torch.randn(shape) * 3 + torch.randn(shape[1]).view(1, -1, *[1] * (len(shape) - 2)) * 10
    x = x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x
    return x.to(dtype)


def trained(norm, activation, x):
    """Result, gradients, and what a step leaves behind."""
    x = x.clone().requires_grad_()
    y = norm(x) if activation is None else activation(norm(x))
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y))
    kept = [t.clone() for t in norm.buffers()]
    return [y.detach(), x.grad, *(p.grad for p in norm.parameters()), *kept]


def normalised(shape, **more):
    norm = NORMS[len(shape)](shape[1], **more)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


@pytest.fixture
def called(monkeypatch):
    """How often the operators were."""
    count = []
    operators = normed._operators()
    if operators is not None:
        counted = tuple(lambda *a, own=own: (count.append(own), own(*a))[1] for own in operators)
        monkeypatch.setattr(normed, "_operators", lambda: counted)
    return count


@needs_library
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_is_as_exact_as_torchs(shape, last, activation, called):
    torch.manual_seed(0)
    norm, x = normalised(shape), drawn(shape, last and len(shape) > 2)
    right = trained(copy.deepcopy(norm).double(), activation, x.double())
    theirs = trained(copy.deepcopy(norm), activation, x)
    found = trained(with_activation(copy.deepcopy(norm), activation), None, x)
    assert len(called) == 2
    assert found[0].stride() == (theirs[0] if len(shape) > 3 else x).stride()
    for exact, one, own in zip(right, theirs, found, strict=True):
        assert own.dtype == one.dtype
        distance, allowed = float((own - exact).abs().max()), float((one - exact).abs().max())
        assert distance <= 4 * allowed + 2e-6 * float(exact.abs().max())


@needs_library
@pytest.mark.parametrize(
    "more",
    [
        {"affine": False},
        {"track_running_stats": False},
        {"momentum": None},
        {"momentum": 0.7, "eps": 0.1},
        {"momentum": None, "track_running_stats": False, "affine": False},
    ],
    ids=str,
)
def test_settings_of_the_norm(more, called):
    torch.manual_seed(0)
    norm = normalised((4, 6, 5, 5), **more)
    own = with_activation(copy.deepcopy(norm), nn.ReLU())
    assert own.state_dict().keys() == norm.state_dict().keys()
    for _ in range(3):
        x = drawn((4, 6, 5, 5), last=False)
        for one, other in zip(trained(norm, nn.ReLU(), x), trained(own, None, x), strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    assert len(called) == 6
    x = drawn((4, 6, 5, 5), last=False)
    torch.testing.assert_close(own.eval()(x), nn.functional.relu(norm.eval()(x)))
    assert len(called) == 6


@needs_library
def test_in_bfloat16(called):
    torch.manual_seed(0)
    norm = normalised((4, 16, 9, 9)).bfloat16()
    x = drawn((4, 16, 9, 9), True, torch.bfloat16)
    right = trained(copy.deepcopy(norm).double(), nn.SiLU(), x.double())
    found = trained(with_activation(norm, nn.SiLU()), None, x)
    assert len(called) == 2
    for exact, own in zip(right, found, strict=True):
        assert float((own - exact).abs().max()) <= 2**-6 * float(exact.abs().max())


@needs_library
def test_numbers_that_are_none_stay_in_their_channel():
    norm = with_activation(nn.BatchNorm2d(3), nn.ReLU())
    x = torch.randn(2, 3, 4, 4)
    x[1, 1, 2, 2] = float("nan")
    y = norm(x)
    assert y[:, 1].isnan().all()
    assert not y[:, [0, 2]].isnan().any()


def test_without_gradients_and_without_a_graph():
    norm = with_activation(nn.BatchNorm2d(3), nn.ReLU())
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        y = norm(x)
    assert not y.requires_grad
    assert float(norm.num_batches_tracked) == 1
    torch.testing.assert_close(y, nn.functional.relu(nn.BatchNorm2d(3)(x)).detach())


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.SiLU()], ids=repr)
def test_gradients_of_gradients(activation):
    torch.manual_seed(0)
    norm = with_activation(normalised((3, 2, 4)), activation)
    theirs = nn.BatchNorm1d(2)
    theirs.load_state_dict(norm.state_dict())
    x = torch.randn(3, 2, 4, requires_grad=True)

    def twice(function):
        (first,) = torch.autograd.grad(function(x).pow(3).sum(), x, create_graph=True)
        return torch.autograd.grad(first.pow(2).sum(), x)[0]

    right = twice(lambda x: theirs(x) if activation is None else activation(theirs(x)))
    torch.testing.assert_close(twice(norm), right, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("case", ["float64", "strided", "autocast", "hook", "one number", "wrong dim", "meta"])
def test_elsewhere_the_parts_are_called(case, called):
    norm, x, activation = nn.BatchNorm2d(4), torch.randn(2, 4, 6, 6), nn.ReLU()
    own = with_activation(copy.deepcopy(norm), activation)
    if case == "float64":
        norm, own, x = norm.double(), own.double(), x.double()
    elif case == "strided":
        x = torch.randn(2, 4, 6, 12)[..., ::2]
    elif case == "hook":
        activation.register_forward_hook(lambda module, args, output: output)
    elif case == "meta":
        norm, own, x = norm.to("meta"), own.to("meta"), x.to("meta")
    elif case in ("one number", "wrong dim"):
        x = torch.randn(1, 4, 1, 1) if case == "one number" else torch.randn(2, 4, 6)
        for module in (norm, own):
            with pytest.raises(ValueError, match=r"more than 1 value|expected 4D"):
                module(x)
        return
    with torch.autocast("cpu", enabled=case == "autocast"):
        found, right = own(x), nn.functional.relu(norm(x))
    assert found.dtype == right.dtype
    if case != "meta":
        torch.testing.assert_close(found, right)
    assert called == []


def test_it_loads_and_trains_as_the_norm_does():
    norm = nn.BatchNorm2d(4)
    own = with_activation(copy.deepcopy(norm), nn.ReLU())
    assert own.state_dict().keys() == norm.state_dict().keys()
    norm(torch.randn(3, 4, 5, 5))
    own.load_state_dict(norm.state_dict())
    for one, other in zip(own.state_dict().values(), norm.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    old = {key: value for key, value in norm.state_dict().items() if "tracked" not in key}
    assert own.load_state_dict(old, strict=False).unexpected_keys == []
    again = copy.deepcopy(own)
    x = torch.randn(3, 4, 5, 5)
    assert torch.equal(again(x), own(x))
