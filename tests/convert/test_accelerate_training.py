# SPDX-License-Identifier: Apache-2.0
"""Networks with faster layers for training: the same parameters, the same steps."""

import copy
import gc

import pytest
import torch
from torch import nn

import foreign
import omniconv
from omniconv.core import normed
from omniconv.core.keeping import held
from omniconv.core.normed import BatchNormActivation2d
from omniconv.ops.conv import linear


class Net(nn.Module):
    """Convolutions of every kind, norms with and without an activation behind them, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.SiLU(), nn.Dropout(0.3))
        self.taps = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, groups=32), nn.BatchNorm2d(32), nn.Hardswish())
        self.narrow = nn.Sequential(nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16))
        self.shared = nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.narrow(self.taps(self.wide(x)))
        return self.head(self.shared(self.shared(x).relu()).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def x():
    return torch.randn(6, 3, 20, 20, generator=torch.Generator().manual_seed(1))


def test_what_is_exchanged_and_that_a_step_is_proved(net, x):
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    report = fast.report
    assert report.refused == ""
    assert {entry.name: entry.layer for entry in report.changes} == {
        "stem.0": "Conv2d",
        "wide.0": "Conv2d",
        "taps.0": "Conv2d",
        "narrow.0": "Conv2d",
        "stem.1 … stem.2": "BatchNormActivation2d",
        "wide.1 … wide.2": "BatchNormActivation2d",
        "taps.1 … taps.2": "BatchNormActivation2d",
        "narrow.1": "BatchNormActivation2d",
        "shared": "BatchNormActivation2d",
        "head": "Linear",
    }
    assert set(report.whole) == {"outputs and statistics", "gradients, of their lengths"}
    assert all(distance.holds and distance.theirs > 0 for distance in report.whole.values())
    assert "BatchNormActivation2d" in str(report)


def test_the_original_stays_and_the_state_dict_fits(net, x):
    before = copy.deepcopy(net.state_dict())
    net.eval()
    fast = omniconv.accelerate(net, x, training=True, seconds=0.01)
    assert type(fast) is Net
    assert fast.training
    assert not net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in fast.state_dict().items())
    assert list(fast.state_dict()) == list(before)
    assert {id(p) for p in fast.parameters()}.isdisjoint(id(p) for p in net.parameters())
    assert all(p.requires_grad for p in fast.parameters())
    assert fast.report.ratio is not None
    net.load_state_dict(fast.state_dict())


def losses(net, x, dtype=torch.float32):
    """Of twenty steps."""
    net, x = net.to(dtype).train(), x.to(dtype)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    found = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), torch.arange(6) % 5)
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return torch.tensor(found, dtype=torch.float64), net


@pytest.mark.parametrize("last", [False, True])
def test_twenty_steps_lose_as_much(net, x, last):
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert sum(isinstance(module, BatchNormActivation2d) for module in fast.modules()) == 5
    exact, _ = losses(copy.deepcopy(net), x, torch.float64)
    theirs, trained = losses(copy.deepcopy(net), x)
    ours, network = losses(fast, x)
    assert float(exact[-1]) < 0.7 * float(exact[0])
    assert float((ours - exact).abs().max()) <= 8 * float((theirs - exact).abs().max()) + 1e-5
    for key, value in network.eval().state_dict().items():
        torch.testing.assert_close(value, trained.state_dict()[key], rtol=1e-2, atol=1e-3)
    with torch.no_grad():
        torch.testing.assert_close(network(x), trained.eval()(x), rtol=1e-2, atol=1e-2)


def test_hooks_and_other_sequences_keep_their_activations(x):
    class Odd(nn.Sequential):
        def forward(self, input):
            return self[0](self[1](input))

    norm, seen = nn.BatchNorm2d(3), []
    hooked = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    hooked[1].register_forward_hook(lambda module, args, output: seen.append(output))
    net = nn.Sequential(Odd(norm, nn.ReLU()), hooked, nn.Conv2d(3, 4, 3))
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert [type(module) for module in (fast[0][1], fast[1][1])] == [nn.ReLU, nn.ReLU]
    assert all(distance.holds for distance in fast.report.whole.values())
    seen.clear()
    fast(x)
    assert len(seen) == 1


def test_nothing_to_exchange_is_said(x):
    net = nn.Sequential(nn.Flatten(), nn.PReLU(), nn.LayerNorm(1200))
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert fast.report.refused == "there is nothing in it that could be faster"
    assert torch.equal(fast(x), net(x))


def test_linear_maps_take_the_activation_behind_them(monkeypatch):
    taken, right = [], linear._Recorded.apply
    monkeypatch.setattr(linear._Recorded, "apply", lambda *given: taken.append(1) or right(*given))
    hooked = nn.Linear(512, 512)
    hooked.register_forward_hook(lambda *given: None)
    net = nn.Sequential(nn.Linear(512, 768), nn.GELU(), nn.Dropout(0.1), nn.Linear(768, 512), hooked, nn.Sigmoid())
    x = torch.randn(3, 160, 512)
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert {entry.name: entry.layer for entry in fast.report.changes} == {"0 … 1": "Linear", "3": "Linear"}
    assert all(distance.holds for distance in fast.report.whole.values())
    assert list(fast.state_dict()) == list(net.state_dict())
    taken.clear()
    fast(x).sum().backward()
    assert len(taken) == (2 if hasattr(torch.ops.omniconv, "activate") else 0)
    assert torch.equal(fast.eval()(x[:, :5]), net.eval()(x[:, :5]))


@pytest.mark.skipif(
    not hasattr(torch.ops.omniconv, "keep_memory") or torch.__version__ < "2.11",
    reason="needs the compiled library, and torch 2.11",
)
def test_memory_is_kept_while_the_network_lives(net):
    gc.collect()
    before = held()
    x = torch.randn(8, 3, 128, 128)
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    twin = copy.deepcopy(fast)
    fast(x).sum().backward()
    kept = held()
    assert kept > before
    fast(x).sum().backward()
    assert held() == kept
    del fast
    gc.collect()
    assert held() == kept
    del twin
    gc.collect()
    assert held() == before


class Taps(nn.Sequential):
    """It keeps what its steps give."""

    def forward(self, x):
        self.seen = []
        for step in self:
            x = step(x)
            self.seen.append(x)
        return x + self.seen[1].mean()


def layers(fast):
    return {entry.name: entry.layer for entry in fast.report.changes}


def test_only_neighbours_are_one_step(x):
    drop, pool = nn.Dropout(0.5), nn.AvgPool2d(3, 1, 1)
    for net in (
        nn.Sequential(nn.Flatten(), nn.Linear(1200, 8), drop, nn.GELU(), nn.Linear(8, 8), drop, nn.GELU()),
        nn.Sequential(nn.Conv2d(3, 8, 3), pool, nn.BatchNorm2d(8), pool, nn.ReLU()),
    ):
        fast = omniconv.accelerate(net, x, training=True, seconds=0)
        assert fast.report.refused == ""
        assert all(len(entry.steps) == 1 for entry in fast.report.changes)
        for run in (fast, net):
            torch.manual_seed(4)
            run.found = run(x)
        torch.testing.assert_close(fast.found, net.found)


def test_a_layer_in_several_places_stays_one(x):
    norm = nn.BatchNorm2d(3)
    net = nn.Sequential(norm, nn.ReLU(), nn.Conv2d(3, 3, 1), norm, nn.ReLU())
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert fast[0] is fast[3]
    assert [type(fast[at]) for at in (0, 1, 4)] == [BatchNormActivation2d, nn.ReLU, nn.ReLU]
    assert list(fast.state_dict()) == list(net.state_dict())


def test_activations_stay_where_a_forward_reads_what_is_before_them(x):
    net = Taps(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert fast.report.refused == ""
    assert layers(fast) == {"0": "Conv2d", "1": "BatchNormActivation2d"}
    assert type(fast[2]) is nn.ReLU


@pytest.mark.parametrize("tracks", [False, True])
def test_statistics_that_are_not_tracked_stay(net, x, tracks):
    net.stem[1].track_running_stats = tracks
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert fast.report.refused == ""
    for run in (net, fast):
        run.train()(x)
        run.stem[1].track_running_stats = False
        run(x)
    assert int(fast.stem[1].num_batches_tracked) == int(net.stem[1].num_batches_tracked) == tracks
    torch.testing.assert_close(fast.stem[1].running_var, net.stem[1].running_var)


def test_random_numbers_of_the_caller_are_not_touched(net, x):
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    omniconv.accelerate(net, x, training=True, seconds=0)
    assert torch.equal(torch.rand(3), want)


def test_what_others_wrote_to_a_layer_and_who_waits_for_it(net, x):
    net.stem[1].tag, net.head.tag = "stem", "head"
    net.wide[1].register_state_dict_post_hook(lambda *given: None)
    net.narrow[1].register_load_state_dict_pre_hook(lambda *given: None)
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert (fast.stem[1].tag, fast.head.tag) == ("stem", "head")
    assert not {"wide.1", "wide.1 … wide.2", "narrow.1"} & layers(fast).keys()


@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_weights_that_are_computed_are_left(x):
    net = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.ReLU())
    net(x)  # from here on a weight that was computed is among its attributes
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert layers(fast) == {"1 … 2": "BatchNormActivation2d"}
    assert "hooks" in fast.report.left["0"]
    torch.testing.assert_close(fast(x), net(x))


def test_layers_of_this_library_keep_their_norms(x):
    net = nn.Sequential(omniconv.nn.PointwiseConv2d(3, 8, norm=nn.BatchNorm2d, activation=nn.ReLU), nn.BatchNorm2d(8))
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert type(fast[0].norm) is nn.BatchNorm2d
    assert layers(fast) == {"1": "BatchNormActivation2d"}


def test_a_convolution_alone(x):
    fast = omniconv.accelerate(nn.Conv2d(3, 8, 3), x, training=True, seconds=0)
    assert type(fast) is omniconv.nn.Conv2d
    assert layers(fast) == {"": "Conv2d"}


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off(net, x, off):
    with off():
        fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert fast.report.refused == ""
    fast(x).sum().backward()
    assert fast.head.weight.grad is not None


def test_a_network_that_was_trained_is_accelerated_as_the_original(net, x):
    norm = nn.Sequential(nn.Linear(5, 6), nn.GELU())
    net = nn.Sequential(net, norm, nn.BatchNorm1d(6))
    trained = omniconv.accelerate(net, x, training=True, seconds=0)
    trained(x)
    net.load_state_dict(trained.state_dict())
    fast, right = (omniconv.accelerate(one.eval(), x, seconds=0) for one in (trained, net))
    assert [entry.layer for entry in fast.report.changes] == [entry.layer for entry in right.report.changes]
    assert len(fast.report.changes) > 3
    torch.testing.assert_close(fast(x), net(x))
    assert any(isinstance(module, BatchNormActivation2d) for module in trained.modules())


def test_an_example_that_does_not_fit(net):
    with pytest.raises(ValueError, match=r"`example_input` is not what the model takes: RuntimeError"):
        omniconv.accelerate(net, torch.randn(2, 4, 8, 8), training=True, seconds=0)


def test_what_is_no_part_of_training_is_refused(net, x):
    with pytest.raises(ValueError, match=r"`layout` \(='in order'\) is of inference"):
        omniconv.accelerate(net, x, training=True, layout="in order")
    net.report = "mine"
    with pytest.raises(ValueError, match="has an attribute `report`"):
        omniconv.accelerate(net, x, training=True)
    frozen = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="nothing that it returns has a gradient"):
        omniconv.accelerate(frozen, x, training=True)


@pytest.mark.skipif(not hasattr(torch.ops.omniconv, "batch_norm"), reason="needs the compiled library")
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_wrong_gradient_is_found(net, x, which, monkeypatch):
    forward, backward = normed._operators()

    def wrong(*given):
        found = list(backward(*given))
        found[which] = found[which] * 1.01
        return tuple(found)

    monkeypatch.setattr(normed, "_operators", lambda: (forward, wrong))
    fast = omniconv.accelerate(net, x, training=True, seconds=0)
    assert fast.report.refused.startswith("the whole was not proved: gradients")
    assert not any(isinstance(module, BatchNormActivation2d) for module in fast.modules())


@pytest.mark.skipif(bool(foreign.missing()), reason="the extras `examples` and `zoo` are not installed")
@pytest.mark.parametrize("name", ["torchvision:mobilenet_v2", "torchvision:resnet18", "torchvision:shufflenet_v2_x1_0"])
def test_networks_of_others_are_proved(name):
    fast = omniconv.accelerate(foreign.create(name), torch.randn(4, 3, 64, 64), training=True, seconds=0)
    assert fast.report.refused == ""
    assert sum(isinstance(module, BatchNormActivation2d) for module in fast.modules()) > 15
