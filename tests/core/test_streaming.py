# SPDX-License-Identifier: Apache-2.0
"""Windows and states between chunks; what a layer refuses to continue; and that a step compiles whole."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import omniconv
from omniconv.core.problem import ConvProblem
from omniconv.core.streaming import Streaming, StreamState, check_streamable, first_state, take
from tolerance import assert_equal

LAYERS = [omniconv.nn.CausalConv1d(2, 2, 3), omniconv.nn.ConvTranspose1d(2, 2, 6, stride=2, padding="causal")]


def causal(k=3, s=1, d=1, channels=2):
    return ConvProblem.of("conv", 1, channels, channels, k, s, "causal", d)


@pytest.mark.pitfall(40)
@settings(max_examples=100)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.lists(st.integers(0, 5), min_size=1, max_size=7))
def test_windows_hold_what_each_output_reads(k, s, d, lengths):
    problem, like = causal(k, s, d, 1), torch.empty(0)
    span, total = problem.span[0], sum(lengths)
    times = torch.arange(1.0, total + 1).view(1, 1, total)
    padded = torch.cat([torch.zeros(1, 1, span - 1), times], dim=2)
    state, start, outputs = first_state(problem, 1, like), 0, []
    for chunk in times.split(lengths, dim=2):
        held = state.history.clone()
        window, done, rest = take(problem, state, chunk)
        at = list(range(start, start + chunk.shape[2]))[done]
        assert_equal(state.history, held)
        if at:
            assert_equal(window, padded[..., at[0] : at[-1] + span])
        else:
            assert window.shape[2] == 0
        outputs += at
        state, start = rest, start + chunk.shape[2]
        assert 0 <= state.skip < s
    assert outputs == list(range(0, total, s))
    assert_equal(state.history, padded[..., total:])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("conv:c1_o1_k3", "`padding` (=((0, 0),)) must be 'causal' on a 1-D layer to stream it"),
        ("conv:c1_o1_k3_padsame", "`padding` (=('same',)) must be 'causal' on a 1-D layer to stream it"),
        ("conv:c1_o1_k3_pad2:1", "`padding` (=((2, 1),)) must be 'causal'"),
        ("conv:c1_o1_k3_d2_pad2:0", "an output may not wait for inputs that come after it."),
        ("conv:c1_o1_k3x3_padcausalx1", "must be 'causal' on a 1-D layer"),
        ("conv:c1_o1_k3_padcausal_replicate", "`padding_mode` (='replicate') must be 'zeros' to stream; use 'zeros'."),
    ],
)
def test_what_cannot_stream_says_why(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_streamable(ConvProblem.parse(text))


def test_what_is_causal_by_its_numbers_streams():
    for text in ("conv:c1_o1_k3_d2_pad4:0", "conv:c1_o1_k1", "conv:c1_o1_k1_s3_padcausal"):
        assert check_streamable(ConvProblem.parse(text)) is None


@pytest.mark.pitfall(31)
def test_a_state_takes_its_batch_in_the_order_asked():
    state = StreamState(torch.arange(6.0).view(3, 1, 2), 1)
    assert state.reorder(torch.tensor([2, 0, 2])).history[:, 0, 0].tolist() == [4.0, 0.0, 4.0]
    assert state.reorder(torch.tensor([], dtype=torch.int64)).history.shape == (0, 1, 2)
    assert state.reorder(torch.tensor([1])).skip == 1


def test_a_layer_that_streams_must_say_how():
    class Silent(Streaming, torch.nn.Conv1d):
        problem = causal()

    layer = Silent(2, 2, 3)
    with pytest.raises(NotImplementedError, match="Silent must say how it convolves a window"):
        layer.step(torch.zeros(1, 2, 4), layer.initial_state())


@pytest.mark.pitfall(36)
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
