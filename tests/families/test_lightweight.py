# SPDX-License-Identifier: Apache-2.0
"""Laws of the lightweight convolution: depthwise with shared kernels, and any chunks give the whole."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from families.heads import filled, heads_of, looped, whole
from omniconv import nn
from omniconv.core.problem import PADDING_MODES, ConvProblem
from omniconv.core.register import Plan
from omniconv.ops.lightweight.aten import normalized
from tolerance import assert_close, assert_equal

DIMS = (1, 2, 3)
LAYERS = {d: getattr(nn, f"LightweightConv{d}d") for d in DIMS}
FUNCTIONS = {d: getattr(OF, f"lightweight_conv{d}d") for d in DIMS}
ATEN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
LAYOUTS = ("block", "interleaved")


@st.composite
def problems(draw):
    """Any lightweight problem on an input that is large enough."""
    dim = draw(st.integers(1, 3))
    heads = draw(st.integers(1, 3))
    channels = heads * draw(st.integers(1, 3))
    mode = draw(st.sampled_from(PADDING_MODES))
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(dim)) for most in (4, 3, 2))
    pairs = st.tuples(st.integers(0, 3), st.integers(0, 3))
    padding = [
        draw(st.one_of(pairs, st.sampled_from(("valid", "tf_same", "same_lower", "causal")))) for _ in range(dim)
    ]
    size = tuple(d * (k - 1) + 4 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilation, strict=True))
    special = {"heads": heads, "softmax": draw(st.integers(0, 1)), "head_layout": draw(st.sampled_from(LAYOUTS))}
    numbers = (kernel, stride, padding, dilation, channels)
    return ConvProblem.of(
        "lightweight", dim, channels, channels, *numbers, padding_mode=mode, in_size=size, batch=2, **special
    )


@given(problems())
def test_is_depthwise_with_the_kernel_of_each_head_repeated(problem):
    x, weight = whole(2, problem.in_channels, *problem.in_size), whole(problem["heads"], *problem.kernel_size)
    output = Plan(problem)(x, weight, None)
    assert output.shape[2:] == problem.out_size
    kernels = weight.flatten(1).softmax(1).view_as(weight) if problem["softmax"] else weight
    filters = kernels[heads_of(problem.in_channels, problem["heads"], problem["head_layout"])].unsqueeze(1)
    flat = [amount for pair in reversed(problem.pads()) for amount in pair]
    wide = F.pad(x, flat, mode="constant" if problem.padding_mode == "zeros" else problem.padding_mode)
    numbers = {"stride": problem.stride, "dilation": problem.dilation, "groups": problem.in_channels}
    want = ATEN[problem.dim](wide, filters, None, **numbers)
    (assert_close if problem["softmax"] else assert_equal)(output, want)


@pytest.mark.parametrize("dim", [1, 2])
def test_is_a_grouped_convolution_over_the_heads(dim):
    """Nothing need be repeated: the channels of a head can be an axis that a kernel of one tap walks."""
    x, weight = whole(2, 6, *(9, 7)[:dim]), whole(3, *(3, 5)[:dim])
    output = FUNCTIONS[dim](x, weight, softmax=False)
    padding = (0, *(1, 2)[:dim])
    folded = ATEN[dim + 1](x.unflatten(1, (3, 2)), weight[:, None, None], padding=padding, groups=3)
    assert_equal(output, folded.flatten(1, 2))


@pytest.mark.pitfall(22)
@pytest.mark.parametrize("head_layout", LAYOUTS)
def test_channels_find_their_head(head_layout):
    x, weight = whole(2, 12, 8), whole(3, 5)
    output = OF.lightweight_conv1d(x, weight, softmax=False, head_layout=head_layout)
    assert_equal(output, looped(x, weight, heads_of(12, 3, head_layout), 2))
    if head_layout == "block":  # with 6 channels and 3 heads, the channels (1,2), (3,4), (5,6) share
        assert heads_of(6, 3, head_layout) == [0, 0, 1, 1, 2, 2]


@pytest.mark.pitfall(22)
def test_interleaved_heads_are_blocks_of_permuted_channels():
    x, weight = whole(2, 12, 8), whole(3, 5)
    order = torch.arange(12).view(4, 3).T.flatten()
    blocks = OF.lightweight_conv1d(x[:, order], weight)
    assert_equal(OF.lightweight_conv1d(x, weight, head_layout="interleaved")[:, order], blocks)


@pytest.mark.pitfall(23)
@pytest.mark.parametrize("dim", DIMS)
def test_softmax_is_over_the_taps_of_a_head_together(dim):
    taps = (3, 2, 4)[:dim]
    weight = torch.randn(4, *taps, dtype=torch.float64)
    shares = normalized(weight)
    assert_close(shares.flatten(1).sum(1), torch.ones(4, dtype=torch.float64))
    for head in range(4):
        powers = weight[head].exp()
        assert_close(shares[head], powers / powers.sum())
    moved = normalized(weight + torch.arange(4.0, dtype=torch.float64).view(-1, *[1] * dim))
    assert_close(moved, shares)
    constant = torch.full((1, 8, *(9,) * dim), 5.0, dtype=torch.float64)
    assert_close(FUNCTIONS[dim](constant, weight, padding="valid"), constant[(..., *(slice(0, 10 - k) for k in taps))])


@pytest.mark.pitfall(23)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_softmax_is_computed_in_float32_and_rounded_once(dtype):
    weight = torch.randn(3, 255).to(dtype)
    assert_equal(normalized(weight), weight.float().softmax(1).to(dtype))


@pytest.mark.pitfall(24)
def test_a_kernel_longer_than_the_sequence_is_normalized_whole():
    """Its taps on padding keep their share, so that a sequence of ones gives less than 1."""
    weight = torch.randn(1, 9, dtype=torch.float64)
    output = OF.lightweight_conv1d(torch.ones(1, 1, 4, dtype=torch.float64), weight, padding="causal")
    shares = weight.softmax(1)[0]
    assert_close(output[0, 0], torch.stack([shares[8 - t :].sum() for t in range(4)]))
    assert bool((output < 1).all())


def effective(layer):
    """The kernel (heads, taps) that the layer uses in one call, read off an impulse in the middle."""
    taps = layer.kernel_size[0]
    impulse = torch.zeros(1, layer.in_channels, 2 * taps - 1, dtype=layer.weight.dtype)
    impulse[..., taps - 1] = 1
    return layer(impulse)[0, :: layer.in_channels // layer.heads, taps // 2 : taps // 2 + taps].flip(-1)


@pytest.mark.pitfall(25)
def test_dropconnect_takes_normalized_weights_and_scales_the_others():
    layer = nn.LightweightConv1d(128, 31, heads=64, dropout=0.25).double()
    shares = normalized(layer.weight.detach())
    layer.eval()
    assert_close(effective(layer), shares)
    layer.train()
    drawn = effective(layer).detach()
    kept = drawn != 0
    assert_close(drawn[kept], shares[kept] / 0.75)
    count, p = drawn.numel(), 0.25
    assert abs(int((~kept).sum()) - count * p) < 6 * math.sqrt(count * p * (1 - p))
    assert bool((drawn.sum(1) - 1).abs().max() > 0.01), "the weights were normalised again"


@pytest.mark.pitfall(25)
def test_dropconnect_is_one_draw_for_all_samples_positions_and_channels_of_a_head():
    layer = nn.LightweightConv1d(8, 3, padding="valid", heads=2, dropout=0.5).double()
    x = torch.randn(1, 1, 3, dtype=torch.float64).expand(5, 8, 3).repeat(1, 1, 4)
    output = layer(x)
    assert_equal(output[1:], output[:1].expand(4, -1, -1))
    assert_equal(output[:, :, 3::3], output[:, :, :1].expand(-1, -1, 3))
    assert_equal(output[:, 1:4], output[:, :1].expand(-1, 3, -1))
    assert_equal(output[:, 5:], output[:, 4:5].expand(-1, 3, -1))


@pytest.mark.pitfall(25)
def test_dropconnect_is_seeded_and_off_at_zero():
    x = torch.randn(2, 8, 11)
    layer = nn.LightweightConv1d(8, 5, heads=4, dropout=0.5)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert_equal(layer(x), first)
    assert not torch.equal(first, second)
    layer.dropout = 0.0
    assert_equal(layer(x), layer.eval()(x))
    layer.dropout = 1.0
    assert not layer.train()(x).any()


@pytest.mark.pitfall(26)
@pytest.mark.parametrize("taps", [1, 4, 5])
def test_any_padding_on_the_left(taps):
    x, weight = whole(2, 6, 7), whole(2, taps)
    for left in range(taps):
        output = OF.lightweight_conv1d(x, weight, softmax=False, padding=((left, taps - 1 - left),))
        assert_equal(output, looped(x, weight, [0, 0, 0, 1, 1, 1], left))
    same = OF.lightweight_conv1d(x, weight, softmax=False)
    assert_equal(same, looped(x, weight, [0, 0, 0, 1, 1, 1], (taps - 1) // 2))
    causal = OF.lightweight_conv1d(x, weight, softmax=False, padding="causal")
    assert_equal(causal, looped(x, weight, [0, 0, 0, 1, 1, 1], taps - 1))


@pytest.mark.pitfall(29)
@pytest.mark.parametrize("padding", ["same", "causal"])
def test_positions_masked_to_zero_are_as_if_the_sequence_ended(padding):
    layer = filled(nn.LightweightConv1d(4, 5, padding=padding, heads=2, bias=True))
    x = whole(2, 4, 12)
    masked = x * (torch.arange(12) < 7)
    assert_close(layer(masked)[:, :, :7], layer(x[:, :, :7]))


@pytest.mark.pitfall(27)
@pytest.mark.parametrize("dim", DIMS)
def test_bias_is_added_once_an_output(dim):
    layer = filled(LAYERS[dim](4, 3, heads=2, bias=True))
    x = whole(2, 4, *(5, 4, 6)[:dim])
    want = FUNCTIONS[dim](x, layer.weight) + layer.bias.view(-1, *[1] * dim)
    assert_close(layer(x), want)
    assert_equal(layer(torch.zeros_like(x)), layer.bias.view(-1, *[1] * dim).expand_as(x))


@st.composite
def streams(draw):
    """A causal layer of whole numbers, a sequence, and the lengths of the chunks it is cut into."""
    heads = draw(st.integers(1, 3))
    layer = nn.LightweightConv1d(
        heads * draw(st.integers(1, 2)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 3)),
        "causal",
        draw(st.integers(1, 3)),
        draw(st.booleans()),
        heads=heads,
        softmax=draw(st.booleans()),
        head_layout=draw(st.sampled_from(LAYOUTS)),
    )
    lengths = draw(st.lists(st.integers(0, 6), min_size=1, max_size=6))
    return filled(layer), whole(2, layer.in_channels, sum(lengths) or 1), lengths if sum(lengths) else [1]


@pytest.mark.pitfall(31, 34, 40)
@given(streams())
def test_any_chunks_give_the_whole(stream):
    layer, x, lengths = stream
    state, pieces = layer.initial_state(batch=2), []
    for chunk in x.split(lengths, dim=2):
        piece, state = layer.step(chunk, state)
        pieces.append(piece)
    (assert_close if layer.softmax else assert_equal)(torch.cat(pieces, dim=2), layer(x))


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 9))
def test_every_chunk_length_gives_the_whole(length, chunk):
    layer = filled(nn.LightweightConv1d(4, 4, padding="causal", heads=2, softmax=False))
    x, state, pieces = whole(1, 4, length), layer.initial_state(), []
    for part in x.split(chunk, dim=2):
        piece, state = layer.step(part, state)
        pieces.append(piece)
    assert_equal(torch.cat(pieces, dim=2), layer(x))


@pytest.mark.pitfall(31, 35, 36, 37)
def test_the_state_holds_what_the_taps_still_need():
    layer = filled(nn.LightweightConv1d(4, 5, padding="causal", dilation=2, heads=2))
    x = whole(3, 4, 20)
    _, early = layer.step(x[:, :, :3], layer.initial_state(batch=3))
    assert_equal(early.history, F.pad(x[:, :, :3], (5, 0)))
    _, state = layer.step(x, layer.initial_state(batch=3))
    assert_equal(state.history, x[:, :, -8:])
    order = torch.tensor([2, 0, 0])
    more = whole(3, 4, 5)
    turned, _ = layer.step(more, state.reorder(order))
    assert_close(turned, layer(torch.cat([x[order], more], dim=2))[:, :, -5:])
    last = torch.zeros(1, 5, dtype=torch.float64)
    last[0, -1] = 1
    assert_equal(OF.lightweight_conv1d(x, last, padding="causal", softmax=False), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "same"}, r"`padding` \(=\('same',\)\) must be 'causal'"),
        ({"padding": "causal", "padding_mode": "replicate"}, r"`padding_mode` \(='replicate'\) must be 'zeros'"),
    ],
)
def test_streaming_is_refused_where_it_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.LightweightConv1d(4, 3, **arguments).initial_state()


@pytest.mark.parametrize("dim", DIMS)
def test_moves_with_its_input(dim):
    layer = LAYERS[dim](4, 3, heads=2).double()
    x = torch.zeros(1, 4, *(12,) * dim, dtype=torch.float64)
    x[(..., *(slice(3, 6),) * dim)] = torch.randn(1, 4, *(3,) * dim, dtype=torch.float64)
    moved = torch.roll(x, (2,) * dim, tuple(range(2, 2 + dim)))
    assert_close(layer(moved), torch.roll(layer(x), (2,) * dim, tuple(range(2, 2 + dim))))
