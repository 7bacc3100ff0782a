# SPDX-License-Identifier: Apache-2.0
"""In training: a pointwise convolution, the norm behind it and an activation, as one step of autograd."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import omniconv
from convert.training_steps import block, counted, picture, step, taken
from omniconv.ops.conv import normed

SMALL = {1: (40,), 2: (9, 7), 3: (3, 4, 5)}
LARGE = {1: (3001,), 2: (61, 53), 3: (7, 23, 20)}  # which the kernel takes both gradients of at once
ACTIVATIONS = [None, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, partial(nn.GELU, approximate="tanh"), nn.Hardswish]
ids = [getattr(one, "__name__", "tanh") for one in ACTIVATIONS]
needs_library = pytest.mark.skipif(not hasattr(torch.ops.omniconv, "isa"), reason="only compiled kernels take both")


@pytest.fixture
def steps(monkeypatch):
    return counted(monkeypatch)


def as_near(found, theirs, exact):
    """As near to float64 as torch's; the gradient of weights is a sum over thousands of positions, which may cancel."""
    assert found.keys() == exact.keys()
    for name, right in exact.items():
        far, their = (float((one[name].double() - right.double()).abs().max()) for one in (found, theirs))
        assert far <= 4 * their + 2e-6 * max(float(right.abs().max()), 50 if name == "0.weight" else 0), name


@needs_library
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=ids)
@pytest.mark.parametrize("sizes", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_step_is_that_of_float64(dim, sizes, activation, steps):
    net, x = block(dim, activation=activation), picture(sizes[dim])
    grad = torch.randn(2, 19, *sizes[dim], generator=torch.Generator().manual_seed(7))
    fast = taken(net, x)
    exact = step(copy.deepcopy(net).double(), x.double(), grad.double())
    theirs = step(net, x, grad)
    as_near(step(fast, x, grad), theirs, exact)
    assert len(steps) == 1


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (16, 96), (33, 7), (40, 40), (3, 130)])
def test_numbers_of_channels(inputs, outputs):
    net, x = block(2, inputs, outputs), picture((57, 60), inputs)
    grad = torch.randn(2, outputs, 57, 60)
    exact = step(copy.deepcopy(net).double(), x.double(), grad.double())
    as_near(step(taken(net, x), x, grad), step(net, x, grad), exact)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("how", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"eps": 0.1}])
def test_norms_as_they_are_made(how, last):
    net, x = block(**how), picture((57, 60), last=last)
    grad = torch.randn(2, 19, 57, 60)
    exact = step(copy.deepcopy(net).double(), x.double(), grad.double())
    as_near(step(taken(net, x), x, grad), step(net, x, grad), exact)


@pytest.mark.parametrize("frozen", ["input", "0.weight", "1.weight", "1.bias", "0.weight 1.weight 1.bias"])
def test_gradients_that_nobody_asks_for(frozen):
    net, x = block(), picture((57, 60))
    for name in frozen.split():
        if name != "input":
            net.get_parameter(name).requires_grad_(requires_grad=False)
    fast = taken(net, x)
    grad = torch.randn(2, 19, 57, 60)
    for run in (net, fast):
        run.x = x.clone(memory_format=torch.preserve_format).requires_grad_(frozen != "input")
        run(run.x).backward(grad)
    assert (net.x.grad is None) == (fast.x.grad is None)
    for (name, own), (_, other) in zip(net.named_parameters(), fast.named_parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None) == (name in frozen.split())
        if own.grad is not None:
            torch.testing.assert_close(other.grad, own.grad, rtol=1e-4, atol=1e-3)


def test_gradients_of_gradients():
    net, x = block(activation=nn.SiLU).double(), picture((4, 5)).double().requires_grad_()
    fast = taken(net.float(), x.detach().float()).double()
    assert torch.autograd.gradgradcheck(fast, (x,), nondet_tol=1e-9)
    found = []
    for run in (
        taken(block(activation=nn.SiLU), picture((4, 5))),
        block(activation=nn.SiLU),
        block(activation=nn.SiLU).double(),
    ):
        own = picture((4, 5)).to(run[0].weight.dtype).requires_grad_()
        (first,) = torch.autograd.grad(run(own).square().sum(), own, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), own)[0].double())
    ours, theirs, exact = found
    assert (ours - exact).abs().max() <= 4 * (theirs - exact).abs().max() + 1e-6 * exact.abs().max()


@needs_library
def test_any_number_of_threads_gives_the_same_bits():
    net, x = taken(block(inputs=24, outputs=50), picture((57, 60), 24)), picture((57, 60), 24)
    grad, before = torch.randn(2, 50, 57, 60), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(step(copy.deepcopy(net), x, grad))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in other)


@needs_library
def test_what_is_asked_of_the_library(monkeypatch):
    calls = []
    own = normed._backward()
    monkeypatch.setattr(normed, "_backward", lambda: lambda *given: calls.append(given[-1]) or own(*given))
    net, x = taken(block(), picture((9, 7))), picture((9, 7))
    net(x).sum().backward()
    net(x.clone().requires_grad_()).sum().backward()
    assert calls == [2, 3]
    with torch.no_grad():
        assert not net(x).requires_grad
    assert int(net[1].num_batches_tracked) == 3


@pytest.mark.parametrize("mode", ["one", "bfloat16", "eval", "no_grad", "float64", "hook", "autocast", "empty"])
def test_what_is_computed_by_its_parts(mode, steps):
    net, x = block(), picture((9, 7))
    fast, seen = taken(net, x), []
    for run in (net, fast):
        if mode == "eval":
            run.eval()
        if mode in ("float64", "bfloat16"):
            run.to(getattr(torch, mode))
        if mode == "hook":
            run[0].register_forward_hook(lambda module, args, output: seen.append(output) or output.relu())
    x = x.to(net[0].weight.dtype)[: 0 if mode == "empty" else None]
    with torch.set_grad_enabled(mode != "no_grad"), torch.autocast("cpu", enabled=mode == "autocast"):
        right = net(x)
        found = fast(x)
    loose = {"rtol": 0.05, "atol": 0.05} if mode in ("autocast", "bfloat16") else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found, right, **loose)
    if seen:
        torch.testing.assert_close(*seen)
    if mode != "bfloat16":  # which oneDNN may compute
        assert len(steps) == (mode == "one" and hasattr(torch.ops.omniconv, "isa"))
    for (name, own), other in zip(net.named_buffers(), fast.buffers(), strict=True):
        torch.testing.assert_close(other, own, **loose, msg=name)


def test_names_copies_and_files():
    net, x = block(), picture((9, 7))
    fast = taken(net, x)
    assert [name for name, _ in fast.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert list(fast.state_dict()) == list(net.state_dict())
    other = pickle.loads(pickle.dumps(copy.deepcopy(fast)))  # noqa: S301  # its own
    other.load_state_dict({name: torch.randn_like(t.float()).abs().to(t.dtype) for name, t in net.state_dict().items()})
    net.load_state_dict(other.state_dict())
    torch.testing.assert_close(other(x), net(x), rtol=1e-4, atol=1e-4)
    assert not torch.equal(other[0].weight, fast[0].weight)


def test_a_trained_one_is_accelerated_for_inference():
    net, x = block(), picture((9, 7))
    fast = taken(net, x)
    for _ in range(3):
        fast(x)
    net.load_state_dict(fast.state_dict())
    served = omniconv.accelerate(fast.eval(), x, seconds=0)
    assert [entry.name for entry in served.report.changes] == ["0 … 2"]
    torch.testing.assert_close(served(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def test_compiled():
    net, x = block(), picture((9, 7))
    fast = taken(net, x)
    torch.compiler.reset()
    compiled = torch.compile(fast, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast[1].running_mean, net[1].running_mean)


def test_flops_are_counted():
    net, x = block(), picture((9, 7))
    fast = taken(net, x)
    counts = []
    for run in (net, fast):
        with FlopCounterMode(display=False) as counter:
            run(x).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_what_is_left_by_itself(steps):
    x = picture((9, 7))
    for first in (
        nn.Conv2d(5, 8, 1),  # with a bias
        nn.Conv2d(5, 8, 3, bias=False),
        nn.Conv2d(5, 8, 1, stride=2, bias=False),
        nn.Conv2d(5, 8, 1, padding=1, bias=False),
        nn.Conv2d(5, 5, 1, groups=5, bias=False),
        nn.ConvTranspose2d(5, 8, 1, bias=False),
        omniconv.nn.PointwiseConv2d(5, 8, bias=False, activation=nn.functional.relu),
        omniconv.nn.PointwiseConv2d(5, 8, bias=False, norm=nn.BatchNorm2d),
    ):
        channels = 5 if getattr(first, "groups", 1) == 5 else 8
        net = nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU())
        fast = omniconv.accelerate(net, x, training=True, seconds=0)
        assert fast.report.refused == ""
        torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    assert not steps


def test_a_copy_that_raises_keeps_its_activations():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = block()

        def forward(self, x):
            return self.features(x) if not self.features[2].inplace else None

    net, x = Reads(), picture((9, 7))
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert fast.report.refused == ""
    assert type(fast.features[2]) is nn.ReLU6


@pytest.mark.parametrize("shape", [(2, 4, 9, 7), (2, 5, 9), (1, 5, 1, 1)])
def test_inputs_that_do_not_fit_say_what_torch_says(shape):
    net, x = block(), picture((9, 7))
    fast = taken(net, x)
    with pytest.raises((RuntimeError, ValueError)):
        net(torch.randn(shape))
    with pytest.raises((RuntimeError, ValueError)):
        fast(torch.randn(shape))


@needs_library
@pytest.mark.parametrize("wrong", ["grad", "output", "mean"])
def test_the_operator_checks_its_tensors(wrong):
    layer, x = omniconv.nn.PointwiseConv2d(5, 8, bias=False), picture((9, 7))
    output = torch.randn(2, 8, 9, 7)
    given = {"grad": torch.randn(2, 8, 9, 7), "output": output, "mean": torch.zeros(8)}
    given[wrong] = torch.zeros(3, 3)
    with pytest.raises(RuntimeError, match=f"`{wrong}`"):
        torch.ops.omniconv.pointwise_normed_backward(
            given["grad"], given["output"], x, layer.weight, None, None, given["mean"], torch.ones(8), 1e-5, 0,
            layer.plan.native(x)[1], 3,
        )  # fmt: skip


@pytest.mark.parametrize("reentrant", [False, True])
def test_statistics_move_as_torchs_where_steps_are_computed_again(reentrant):
    net, x = block(), picture((9, 7))
    fast = taken(net, x)
    for run in (net, fast):
        run.x = x.clone(memory_format=torch.preserve_format).requires_grad_()
        checkpoint(run, run.x, use_reentrant=reentrant).square().sum().backward()
    assert int(fast[1].num_batches_tracked) == int(net[1].num_batches_tracked)
    torch.testing.assert_close(fast[1].running_mean, net[1].running_mean)
    torch.testing.assert_close(fast.x.grad, net.x.grad, rtol=1e-3, atol=1e-3)
