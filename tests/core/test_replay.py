# SPDX-License-Identifier: Apache-2.0
"""Operators that are recorded once and called again."""

import pytest
import torch
from torch import nn

from omniconv.core.native import watching
from omniconv.core.replay import Recording, Replay, UnrepeatableError

pytestmark = pytest.mark.skipif(not hasattr(torch.ops.omniconv, "replay"), reason="needs the compiled library")


def recorded(function, *inputs):
    with torch.no_grad(), Recording(inputs) as recording:
        found = function(*inputs)
    found = list(found) if isinstance(found, (list, tuple)) else [found]
    return Replay(recording, found)


def check(function, *shapes, segments=None):
    """A replay of one run gives what other runs give."""
    torch.manual_seed(0)
    replay = recorded(function, *(torch.randn(shape) for shape in shapes))
    for _ in range(3):
        inputs = [torch.randn(shape) for shape in shapes]
        right = function(*[one.clone() for one in inputs])
        right = list(right) if isinstance(right, (list, tuple)) else [right]
        found = replay([one.clone() for one in inputs])
        assert len(found) == len(right)
        for one, other in zip(found, right, strict=True):
            assert one.stride() == other.stride()
            assert torch.equal(one, other)
    if segments is not None:
        assert [segment.call is None for segment in replay.segments] == segments
    return replay


def test_a_network_is_one_program():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AvgPool2d(2)).eval()
    replay = check(net, (2, 3, 8, 8), segments=[True])
    assert len(replay.segments[0].program) > 10


def test_what_the_library_cannot_pass_is_called_by_python_between_programs():
    check(lambda x: torch.relu(torch.add(torch.relu(x), x, alpha=2)), (4, 5), segments=[True, False, True])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.chunk(3, dim=1),
        lambda x: torch.cat([part.relu() for part in x.split([1, 2], dim=1)], dim=1),
        lambda x: x.mean((2, 3), keepdim=True).expand_as(x).contiguous(),
        lambda x: nn.functional.layer_norm(x, x.shape[-1:], torch.ones(5), None, 1e-3),
        lambda x: x.permute(0, 2, 3, 1).reshape(-1, 3).contiguous(memory_format=torch.contiguous_format),
        lambda x: x.to(torch.float64).sum(dtype=torch.float32),
        lambda x: torch.native_layer_norm(x, [5], None, None, 1e-5),
        lambda x: x * torch.arange(5.0),
        lambda x: x.relu_().sigmoid_(),
        lambda x: (x, x.relu()),
        lambda x: nn.functional.pad(x, (1, 2), value=0.5),
        lambda x: torch.max_pool2d(x, 2, 1, 1, 1, ceil_mode=True),
    ],
)
def test_arguments_and_results_of_every_kind(function):
    check(function, (2, 3, 4, 5))


def test_several_inputs_of_other_types():
    embed = nn.Embedding(7, 4)
    replay = recorded(lambda ids, x: embed(ids) + x, torch.tensor([1, 2, 3]), torch.randn(3, 4))
    ids, x = torch.tensor([6, 0, 6]), torch.randn(3, 4)
    assert torch.equal(replay([ids, x])[0], embed(ids) + x)


def test_constants_are_computed_once_and_not_changed():
    weight = torch.randn(4, 4)

    def function(x):
        mask = torch.zeros(4)
        mask[1:].fill_(2.0)
        return x @ weight.t().contiguous() * mask

    replay = check(function, (3, 4))
    assert sum(len(segment.constants) for segment in replay.segments) == 2


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x: x + torch.rand(3), "draws random numbers"),
        (lambda x: x * x.sum().item(), "looks at numbers"),
        (lambda x: torch.zeros(3), "depends on no input"),
        (lambda x: torch.zeros(3).copy_(x), "writes to a constant"),
        (lambda x: nn.functional.dropout(x, 0.5), "draws random numbers"),
    ],
)
def test_what_may_not_be_repeated_is_refused(function, why):
    with pytest.raises(UnrepeatableError, match=why):
        recorded(function, torch.ones(3))


def test_a_constant_that_was_read_may_not_be_written_to():
    def function(x):
        own = torch.ones(3)
        y = x * own
        own.mul_(2)
        return y + own

    with pytest.raises(UnrepeatableError, match="writes to a constant"):
        recorded(function, torch.ones(3))


def test_a_recording_is_no_one_who_watches():
    seen = []

    def function(x):
        seen.append(watching())
        return x.relu()

    recorded(function, torch.ones(3))
    assert seen == [False]
    with torch.utils._python_dispatch.TorchDispatchMode():
        assert watching()
    assert not watching()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda words: words[:-3], "ends early"),
        (lambda words: torch.cat([words[:1] * 0 + 1, words[1:]]), "register"),
        (lambda words: words.float(), "64-bit"),
        (lambda words: torch.cat([words[:2], words[2:3] + 99, words[3:]]), "register"),
        (lambda words: words[:0], "ends early"),
    ],
)
def test_a_broken_program_is_an_error(change, why):
    (segment,) = recorded(torch.relu, torch.ones(3)).segments
    with pytest.raises(RuntimeError, match=why):
        torch.ops.omniconv.replay([torch.ones(3), *segment.constants], change(segment.program))


def test_an_operator_that_fails_is_an_error():
    replay = recorded(lambda x: x.view(2, 6).relu(), torch.randn(3, 4))
    with pytest.raises(RuntimeError):
        replay([torch.randn(3, 5)])
