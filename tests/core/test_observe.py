# SPDX-License-Identifier: Apache-2.0
"""A listener sees each family call once, as a problem with its size, and can be nested and silenced."""

from __future__ import annotations

import threading

import pytest
import torch

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.observe import current_listener, listening
from tolerance import assert_close, assert_equal


class Notebook:
    """A listener that writes down the problems it hears of."""

    def __init__(self):
        self.problems, self.tensors = [], []

    def __call__(self, problem, tensors, run):
        self.problems.append(str(problem))
        self.tensors.append(tensors)
        return run()


def test_a_call_is_one_problem_with_its_size_and_tensors():
    heard, x, weight = Notebook(), torch.randn(2, 3, 8, 9), torch.randn(4, 3, 3, 3)
    plain = OF.conv2d(x, weight, padding="same")
    with listening(heard):
        assert current_listener() is heard
        assert_equal(OF.conv2d(x, weight, padding="same"), plain)
        assert_close(OF.conv2d(x[0], weight, padding="same"), plain[0])
    assert heard.problems == [f"conv:n{n}_c3_o4_i8x9_k3x3_padsame" for n in (2, 1)]
    assert heard.tensors[0][0] is x
    assert heard.tensors[0][1:] == (weight, None)
    assert current_listener() is None


@pytest.mark.parametrize(
    ("call", "families"),
    [
        (nn.DepthwiseSeparableConv2d(2, 4, 3), ["depthwise_separable"]),
        (nn.SpatialSeparableConv2d(2, 4, 3), ["spatial_separable"]),
        (nn.ConvTranspose2d(2, 4, 3, 2, "tf_same"), ["transposed"]),
        (nn.DeformableConv2d(2, 4, 3), ["conv", "deformable"]),
        (lambda x: OF.deform_conv2d(x, x.new_zeros(1, 18, 4, 4), x.new_ones(4, 2, 3, 3)), ["deformable"]),
    ],
)
def test_a_family_made_of_others_is_heard_once(call, families):
    heard = Notebook()
    with listening(heard):
        call(torch.randn(1, 2, 6, 6))
    assert [problem.partition(":")[0] for problem in heard.problems] == families


def test_the_result_is_what_the_listener_returns():
    with listening(lambda problem, tensors, run: run() + 1):
        assert OF.conv1d(torch.zeros(1, 1, 3), torch.ones(1, 1, 1)).tolist() == [[[1.0] * 3]]


def test_listeners_nest_and_none_silences():
    outer, inner = Notebook(), Notebook()
    x, weight = torch.ones(1, 1, 3), torch.ones(1, 1, 1)
    with listening(outer):
        with listening(inner):
            OF.conv1d(x, weight)
        with listening(None):
            OF.conv1d(x, weight)
        OF.conv1d(x, weight, stride=2)
    assert inner.problems == ["conv:n1_c1_o1_i3_k1"]
    assert outer.problems == ["conv:n1_c1_o1_i3_k1_s2"]


def test_an_error_ends_the_listening():
    heard = Notebook()
    with pytest.raises(ValueError, match="too small"), listening(heard):
        OF.conv1d(torch.ones(1, 1, 3), torch.ones(1, 1, 5))
    assert current_listener() is None
    assert heard.problems == []


def test_another_thread_is_not_heard():
    heard = Notebook()
    with listening(heard):
        thread = threading.Thread(target=OF.conv1d, args=(torch.ones(1, 1, 3), torch.ones(1, 1, 1)))
        thread.start()
        thread.join()
    assert heard.problems == []
