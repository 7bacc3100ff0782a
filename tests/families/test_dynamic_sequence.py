# SPDX-License-Identifier: Apache-2.0
"""Dynamic convolutions over sequences: any chunks give the whole, and one kernel for a whole sequence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from families.heads import filled, reals, whole
from omniconv import nn
from omniconv.core.family import families
from tolerance import assert_close, assert_equal

DIMS = (1, 2, 3)
LAYERS = {d: getattr(nn, f"DynamicConv{d}d") for d in DIMS}
LIGHT_FUNCTIONS = {d: getattr(OF, f"lightweight_conv{d}d") for d in DIMS}


@st.composite
def streams(draw):
    """A causal layer, a sequence, perhaps a query, and the lengths of the chunks the sequence is cut into."""
    heads = draw(st.integers(1, 3))
    normalize = draw(st.booleans())
    layer = nn.DynamicConv1d(
        heads * draw(st.integers(1, 2)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 3)),
        "causal",
        draw(st.integers(1, 3)),
        draw(st.booleans()),
        heads=heads,
        softmax=normalize,
        renorm_padding=normalize and draw(st.booleans()),
        in_proj=draw(st.booleans()),
        query_channels=draw(st.sampled_from((None, 2))),
        predictor_bias=draw(st.booleans()),
    )
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    return filled(layer), whole(2, layer.in_channels, sum(lengths) or 1), lengths if sum(lengths) else [1]


@pytest.mark.pitfall(24, 31, 34, 40)
@given(streams())
def test_any_chunks_give_the_whole(stream):
    layer, x, lengths = stream
    s = layer.stride[0]
    query = None if layer.query_channels is None else whole(2, 2, -(-x.shape[2] // s))
    state, pieces, begun = layer.initial_state(batch=2), [], 0
    for chunk in x.split(lengths, dim=2):
        asked = [i // s for i in range(begun, begun + chunk.shape[2]) if i % s == 0]
        piece, state = layer.step(chunk, state, None if query is None else query[:, :, asked])
        assert piece.shape[2] == len(asked)
        pieces.append(piece)
        begun += chunk.shape[2]
    (assert_close if layer.softmax else assert_equal)(torch.cat(pieces, dim=2), layer(x, query))


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 9), st.booleans())
def test_every_chunk_length_gives_the_whole(length, chunk, renorm):
    layer = nn.DynamicConv1d(4, 4, padding="causal", heads=2, renorm_padding=renorm).double()
    x, state, pieces = reals(1, 4, length), layer.initial_state(), []
    for part in x.split(chunk, dim=2):
        piece, state = layer.step(part, state)
        pieces.append(piece)
    assert_close(torch.cat(pieces, dim=2), layer(x))


@pytest.mark.pitfall(31, 35, 36, 37)
def test_the_state_holds_what_the_taps_still_need():
    layer = nn.DynamicConv1d(4, 5, padding="causal", dilation=2, heads=2).double()
    x = reals(3, 4, 20)
    _, early = layer.step(x[:, :, :3], layer.initial_state(batch=3))
    assert_equal(early.history, torch.cat([torch.zeros(3, 4, 5), x[:, :, :3]], dim=2))
    assert early.seen == 3
    _, state = layer.step(x, layer.initial_state(batch=3))
    assert_equal(state.history, x[:, :, -8:])
    assert state.seen == 8
    order, more = torch.tensor([2, 0, 0]), reals(3, 4, 5)
    turned, after = layer.step(more, state.reorder(order))
    assert_close(turned, layer(torch.cat([x[order], more], dim=2))[:, :, -5:])
    assert type(after) is type(state)
    last = torch.zeros(3, 1, 5, 20, dtype=torch.float64)
    last[:, :, -1] = 1
    assert_equal(OF.dynamic_conv1d(x, last, padding="causal", softmax=False), x)


def test_streaming_is_refused_where_it_cannot_be():
    with pytest.raises(ValueError, match=r"`padding` .* must be 'causal'"):
        nn.DynamicConv1d(4, 3).initial_state()
    with pytest.raises(ValueError, match=r"`context` \(='sequence'\) must be 'position' to stream"):
        nn.DynamicConv1d(4, 3, padding="causal", context="sequence").initial_state()
    wide = torch.nn.Conv1d(4, 3, 3, padding=1)
    with pytest.raises(ValueError, match=r"`predictor` \(=Conv1d\) may look beyond a chunk"):
        nn.DynamicConv1d(4, 3, padding="causal", predictor=wide).initial_state()
    layer = nn.DynamicConv1d(4, 3, padding="causal", query_channels=2)
    with pytest.raises(TypeError, match=r"`query` \(=None\) must be a torch.Tensor"):
        layer.step(torch.zeros(1, 4, 3), layer.initial_state())
    with pytest.raises(ValueError, match=r"`query` shape .* 2 channels and \(3,\) positions"):
        layer.step(torch.zeros(1, 4, 3), layer.initial_state(), torch.zeros(1, 2, 2))
    with pytest.raises(TypeError, match=r"`state` \(=StreamState\) must be a DynamicState"):
        layer.step(torch.zeros(1, 4, 3), nn.CausalConv1d(4, 4, 3).initial_state(), torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"`chunk` shape .* must be \(1, 4\) and a length"):
        layer.step(torch.zeros(1, 3, 3), layer.initial_state(), torch.zeros(1, 2, 3))


def test_the_sequence_decides_every_output_and_a_position_only_its_own():
    """The end of a sequence reaches the first outputs through the mean, and through a position's kernel it does not."""
    x = reals(1, 8, 100)
    other = x.clone()
    other[:, :, 80:] += 1
    for context, felt in (("sequence", True), ("position", False)):
        layer = nn.DynamicConv1d(8, 5, heads=4, context=context).double()
        assert torch.equal(layer(x)[:, :, :40], layer(other)[:, :, :40]) is not felt
    family = families()["dynamic"]
    told = family.unbounded(nn.DynamicConv1d(8, 5, context="sequence").problem)
    assert told == "the kernel is predicted from the mean over all positions"
    assert family.unbounded(nn.DynamicConv1d(8, 5).problem) == ""
    assert family.unbounded(nn.DynamicConv1d(8, 5, context="sequence", query_channels=3).problem) == ""


@pytest.mark.pitfall(33)
@pytest.mark.parametrize("dim", DIMS)
def test_one_kernel_a_sequence_is_lightweight_for_each_sample(dim):
    layer = LAYERS[dim](6, 3, heads=2, context="sequence").double()
    x = reals(3, 6, *(7, 5, 4)[:dim])
    output = layer(x)
    for n in range(3):
        mean = x[n].flatten(1).mean(1)
        weight = (layer.predictor.weight.flatten(1) @ mean).view(2, *(3,) * dim)
        assert_close(output[n], LIGHT_FUNCTIONS[dim](x[n], weight))
    longer = reals(3, 6, *(2,) * dim)
    assert layer(x, longer).shape == x.shape
