# SPDX-License-Identifier: Apache-2.0
"""One call of a convolution and what follows it: any number of threads, callers at once, tracers, replaced parts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.library import absent
from tolerance import assert_close

needs_library = pytest.mark.skipif(bool(absent()), reason=absent())


def laid(tensor, inside):
    return tensor.to(memory_format=torch.channels_last) if inside else tensor


@needs_library
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("kernel", "channels", "size"), [(5, 480, 14), (7, 200, 28), (7, 672, 14), (3, 96, 28)])
def test_boxes_are_cut_alike_for_any_number_of_threads(kernel, channels, size, inside):
    """Where taps lie outside a box or an image decides how sums are ordered."""
    layer = nn.DepthwiseSeparableConv2d(channels, 40, kernel, padding=kernel // 2, mid_activation=torch.nn.ReLU)
    x, before, outputs = laid(torch.randn(1, channels, size, size), inside), torch.get_num_threads(), []
    try:
        with torch.no_grad():
            for threads in (1, 2, 3, 4):
                torch.set_num_threads(threads)
                outputs.append(layer(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_a_residual_is_traced_symbolically():
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.pointwise, self.linear = nn.PointwiseConv2d(4, 4, activation=torch.nn.ReLU), nn.Linear(5, 5)

        def forward(self, x):
            return self.linear(self.pointwise(x, x), x)

    block, x = Block(), torch.randn(2, 4, 3, 5)
    assert_close(torch.fx.symbolic_trace(block)(x), block(x))


def test_an_activation_with_a_forward_of_its_own_is_called():
    layer, x = nn.PointwiseConv2d(4, 3, activation=torch.nn.ReLU()), torch.randn(1, 4, 3, 3)
    layer.activation.forward = lambda output: output + 1
    with torch.no_grad():
        assert_close(layer(x), torch.nn.functional.conv2d(x, layer.weight, layer.bias) + 1)


def test_threads_share_a_plan_of_functions():
    """Two weights of one shape in turn: neither may meet what was packed of the other."""
    x = torch.randn(1, 64, 5, 5).to(memory_format=torch.channels_last)
    weights = [torch.randn(64, 64, 1, 1) for _ in range(2)]
    wants = [torch.nn.functional.conv2d(x.double(), w.double()) for w in weights]

    def run(which):
        with torch.no_grad():
            for _ in range(200):
                assert_close(OF.conv2d(x, weights[which]), wants[which])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, (0, 1, 0, 1)))
