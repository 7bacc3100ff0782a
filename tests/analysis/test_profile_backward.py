# SPDX-License-Identifier: Apache-2.0
"""A gradient inside a model is counted: to the input and to the weight, each takes the products of the forward pass."""

from __future__ import annotations

import pytest
from torch import nn
from torch.func import functional_call, grad

import omniconv


class Gradient(nn.Module):
    """The gradients of the sum of a layer's output, to 0, the input, to 1, the parameters ``names``, or to both."""

    def __init__(self, layer, to, *names):
        super().__init__()
        self.layer, self.to, self.names = layer, to, names

    def forward(self, x):
        def total(x, parameters):
            return functional_call(self.layer, parameters, (x,)).sum()

        return grad(total, argnums=self.to)(x, {name: getattr(self.layer, name) for name in self.names})


@pytest.mark.pitfall(45)
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d, omniconv.nn.Conv2d, omniconv.nn.ConvTranspose2d])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_gradients_of_grouped_layers(kind, groups):
    layer, x = kind(8, 16, 3, stride=2, groups=groups), (3, 8, 9, 7)
    forward = omniconv.profile(layer, x, receptive_field=False)
    positions = 9 * 7 if "Transpose" in kind.__name__ else 4 * 3
    assert forward.macs == 3 * positions * 8 * 16 // groups * 9
    for to, names, passes, sums in (
        (0, (), 2, 1),
        (1, ("weight",), 2, 1),
        ((0, 1), ("weight",), 3, 1),
        ((0, 1), ("weight", "bias"), 3, 2),
        (1, ("bias",), 1, 2),
    ):
        found = omniconv.profile(Gradient(layer, to, *names), x, receptive_field=False)
        assert (found.macs, found.bias_adds) == (passes * forward.macs, sums * forward.bias_adds)
        assert found.status == "complete"
