# SPDX-License-Identifier: Apache-2.0
"""A causal convolution chunk by chunk is the one call on the whole sequence; its state is d(k−1) inputs and no more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from omniconv import nn
from tolerance import assert_close, assert_equal


def whole(*shape):
    """Small whole numbers in float64: every sum of their products is exact."""
    return torch.randint(-3, 4, shape).double()


def causal(k, s=1, d=1, groups=1, *, channels=(2, 4), bias=True):
    """A causal layer of whole numbers."""
    layer = nn.CausalConv1d(*channels, k, s, d, groups, bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(*parameter.shape))
    return layer


def streamed(layer, x, lengths, state=None):
    """The outputs of ``x`` split into chunks of ``lengths``, and the last state."""
    state, pieces = state or layer.initial_state(batch=x.shape[0]), []
    for chunk in x.split(lengths, dim=2):
        piece, state = layer.step(chunk, state)
        pieces.append(piece)
    return torch.cat(pieces, dim=2), state


@pytest.mark.pitfall(34, 40)
@settings(max_examples=150)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from((1, 2)),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_any_split_gives_the_whole(k, s, d, groups, lengths):
    layer, x = causal(k, s, d, groups), whole(2, 2, sum(lengths))
    got, state = streamed(layer, x, lengths)
    assert_equal(got, layer(x) if sum(lengths) else x.new_zeros(2, 4, 0))
    padded = torch.cat([x.new_zeros(2, 2, d * (k - 1)), x], dim=2)
    assert_equal(state.history, padded[..., padded.shape[2] - d * (k - 1) :])
    assert state.skip == -sum(lengths) % s


@pytest.mark.pitfall(40)
@pytest.mark.parametrize("length", range(1, 14))
@pytest.mark.parametrize(("k", "s", "d"), [(4, 1, 1), (3, 1, 4), (3, 2, 1), (2, 3, 5), (1, 4, 1), (1, 1, 1)])
def test_chunks_of_every_length(k, s, d, length):
    layer, x = causal(k, s, d), whole(1, 2, 13)
    assert_equal(streamed(layer, x, length)[0], layer(x))


@pytest.mark.pitfall(40)
def test_the_pair_that_is_causal_streams_too_and_no_other():
    x = whole(1, 2, 9)
    layer = nn.Conv1d(2, 3, 3, padding=((4, 0),), dilation=2, dtype=torch.float64)
    assert_close(streamed(layer, x, [4, 5])[0], layer(x))
    for padding in (0, 4, ((3, 0),), ((4, 1),), "same", "tf_same"):
        with pytest.raises(ValueError, match=r"`padding` \(=.*\) must be 'causal' on a 1-D layer to stream it"):
            nn.Conv1d(2, 3, 3, padding=padding, dilation=2).initial_state()
    repeating = nn.Conv1d(2, 3, 3, padding="causal", padding_mode="replicate")
    with pytest.raises(ValueError, match=r"`padding_mode` \(='replicate'\) must be 'zeros' to stream; use 'zeros'"):
        repeating.initial_state()


@pytest.mark.pitfall(34)
@pytest.mark.parametrize(("k", "s", "d"), [(1, 1, 1), (3, 1, 2), (4, 3, 1), (2, 2, 3)])
def test_an_output_sees_the_inputs_up_to_its_own_and_no_later(k, s, d):
    layer, x = nn.CausalConv1d(1, 1, k, s, d, dtype=torch.float64), torch.randn(1, 1, 12, dtype=torch.float64)
    seen = torch.autograd.functional.jacobian(layer, x)[0, 0, :, 0, 0] != 0
    for p, row in enumerate(seen):
        assert row.nonzero().flatten().tolist() == [t for j in range(k) if (t := s * p - d * (k - 1 - j)) >= 0]
    assert seen.shape[0] == -(-12 // s)


@pytest.mark.pitfall(35)
def test_the_last_tap_meets_the_current_input():
    x, now = whole(1, 1, 6), torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64)
    assert_equal(OF.conv1d(x, now, padding="causal"), x)
    before = OF.conv1d(x, now.flip(2), padding="causal")
    assert_equal(before[..., 2:], x[..., :-2])
    assert not before[..., :2].any()


@pytest.mark.pitfall(36)
@pytest.mark.parametrize(("k", "d"), [(4, 1), (3, 5), (1, 7)])
def test_the_state_holds_one_input_less_than_the_span(k, d):
    layer = nn.CausalConv1d(2, 4, k, dilation=d)
    state = layer.initial_state(batch=3)
    assert state.history.shape == (3, 2, d * (k - 1))
    longer = type(state)(torch.zeros(3, 2, d * (k - 1) + 1))
    with pytest.raises(ValueError, match=rf"must hold 2 channels and {d * (k - 1)} inputs, those of this layer"):
        layer.step(torch.zeros(3, 2, 4), longer)


@pytest.mark.pitfall(37)
def test_a_short_sequence_leaves_zeros_and_the_earlier_state_in_front():
    layer, x = causal(4, d=2), whole(1, 2, 4)
    state = streamed(layer, x, [4])[1]
    assert_equal(state.history, torch.cat([torch.zeros(1, 2, 2), x], dim=2))
    further = streamed(layer, x[..., :3], [3], state)[1]
    assert_equal(further.history, torch.cat([x[..., 1:], x[..., :3]], dim=2))


@pytest.mark.pitfall(37)
def test_gradients_reach_the_first_state_and_pass_from_chunk_to_chunk():
    layer, x, history = causal(3, 2, 2), whole(2, 2, 9).requires_grad_(), whole(2, 2, 4).requires_grad_()
    first = type(layer.initial_state())(history)
    got = streamed(layer, x, [2, 3, 4], first)[0]
    want = OF.conv1d(torch.cat([history, x], dim=2), layer.weight, layer.bias, 2, 0, 2)
    assert_equal(got, want)
    weights, asked = whole(*got.shape), (x, history, layer.weight, layer.bias)
    for mine, other in zip(
        torch.autograd.grad((got * weights).sum(), asked, retain_graph=True),
        torch.autograd.grad((want * weights).sum(), asked),
        strict=True,
    ):
        assert_equal(mine, other)


def test_reordered_states_continue_their_own_sequences():
    layer, x = causal(3, 2), whole(3, 2, 8)
    _, state = layer.step(x[..., :5], layer.initial_state(3))
    order = torch.tensor([2, 0, 0])
    got, _ = layer.step(x[..., 5:], state.reorder(order))
    assert_equal(got, layer(torch.cat([x[order][..., :5], x[..., 5:]], dim=2))[..., 3:])
    assert state.reorder(order).skip == state.skip == 1


def test_a_step_leaves_the_state_it_was_given():
    layer, x = causal(3), whole(1, 2, 4)
    state = layer.initial_state()
    history = state.history.clone()
    first, _ = layer.step(x, state)
    again, _ = layer.step(x, state)
    assert_equal(state.history, history)
    assert_equal(first, again)
    with pytest.raises(AttributeError):
        state.skip = 1


def test_states_have_the_batch_dtype_and_device_of_their_layer():
    layer = nn.CausalConv1d(2, 2, 3, dtype=torch.bfloat16)
    assert layer.initial_state(0).history.shape == (0, 2, 2)
    assert layer.initial_state().history.dtype == torch.bfloat16
    assert nn.CausalConv1d(2, 2, 3, device="meta").initial_state().history.is_meta
    assert layer.step(torch.zeros(0, 2, 5, dtype=torch.bfloat16), layer.initial_state(0))[0].shape == (0, 2, 5)
    with pytest.raises(ValueError, match=r"`batch` \(=-1\) must be at least 0"):
        layer.initial_state(-1)


@pytest.mark.pitfall(38)
def test_types_are_not_mixed_silently():
    layer, chunk = nn.CausalConv1d(2, 2, 3, dtype=torch.bfloat16), torch.zeros(1, 2, 4)
    for call in (layer, lambda x: layer.step(x, layer.initial_state())):
        with pytest.raises(TypeError, match=r"dtype .* must be that of the"):
            call(chunk)


def test_the_layer_is_conv1d_with_one_rule():
    layer = causal(3, 2, 2, 2)
    plain = nn.Conv1d(2, 4, 3, 2, "causal", 2, 2, dtype=torch.float64)
    plain.load_state_dict(layer.state_dict())
    x = whole(2, 2, 11)
    assert_equal(layer(x), plain(x))
    assert_equal(plain(x), nn.Conv1d.from_torch(plain)(x))
    assert layer.padding == "causal"
    assert layer(x[0]).shape == (4, 6)
