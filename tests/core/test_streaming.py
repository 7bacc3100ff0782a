# SPDX-License-Identifier: Apache-2.0
"""What a layer refuses to continue: chunks and states that are not its own; and that a step compiles whole."""

import pytest
import torch

import omniconv

LAYERS = [omniconv.nn.CausalConv1d(2, 2, 3), omniconv.nn.ConvTranspose1d(2, 2, 6, stride=2, padding="causal")]


@pytest.mark.parametrize("layer", LAYERS, ids=["causal", "transposed"])
def test_a_state_of_another_layer_is_refused(layer):
    foreign = omniconv.nn.CausalConv1d(2, 2, 5, dilation=2).initial_state()
    with pytest.raises(ValueError, match=r"`state` \(of shape \(1, 2, 8\)\) must hold 2 channels and 2 inputs"):
        layer.step(torch.zeros(1, 2, 4), foreign)
    with pytest.raises(TypeError, match=r"`state` \(=NoneType\) must be a StreamState; use initial_state"):
        layer.step(torch.zeros(1, 2, 4), None)


@pytest.mark.parametrize("layer", LAYERS, ids=["causal", "transposed"])
def test_a_chunk_that_is_not_its_own_is_refused(layer):
    with pytest.raises(TypeError, match=r"`chunk` \(=list\) must be a torch.Tensor"):
        layer.step([1.0], layer.initial_state())
    for shape in [(2, 4), (2, 2, 4), (1, 3, 4)]:
        with pytest.raises(ValueError, match=r"`chunk` shape .* must be \(1, 2\) and a length"):
            layer.step(torch.zeros(shape), layer.initial_state())


def test_a_step_compiles_whole():
    layer = omniconv.nn.CausalConv1d(2, 2, 3)
    chunk, state = torch.randn(1, 2, 5), layer.initial_state()
    step = torch.compile(layer.step, backend="eager", fullgraph=True)
    assert torch.equal(step(chunk, state)[0], layer.step(chunk, state)[0])
