# SPDX-License-Identifier: Apache-2.0
"""Laws of the lightweight convolution: depthwise with shared kernels, whole in chunks, and fairseq's by its weights."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.family import Position, families
from omniconv.core.family import settings as named_settings
from omniconv.core.problem import PADDING_MODES, ConvProblem
from omniconv.core.register import Plan
from omniconv.ops.lightweight.aten import normalized
from tolerance import assert_close, assert_equal

DIMS = (1, 2, 3)
LAYERS = {d: getattr(nn, f"LightweightConv{d}d") for d in DIMS}
FUNCTIONS = {d: getattr(OF, f"lightweight_conv{d}d") for d in DIMS}
ATEN = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
LAYOUTS = ("block", "interleaved")


def whole(*shape):
    """Small whole numbers in float64: every sum of their products is exact."""
    return torch.randint(-3, 4, shape).double()


def filled(layer):
    """The layer in float64 with small whole numbers for weights."""
    layer = layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(*parameter.shape))
    return layer


def heads_of(channels, heads, head_layout):
    """The head of each channel, counted out."""
    if head_layout == "interleaved":
        return [c % heads for c in range(channels)]
    return [h for h in range(heads) for _ in range(channels // heads)]


def looped(x, kernels, head_of, padding_l):
    """Σ_k w[head, k] x[t + k − padding_l] for x (n, c, t), one product at a time; outside x is 0."""
    n, channels, length = x.shape
    taps = kernels.shape[-1]
    y = torch.zeros_like(x)
    for b in range(n):
        for c in range(channels):
            for t in range(length):
                for k in range(taps):
                    at = t + k - padding_l
                    if 0 <= at < length:
                        y[b, c, t] += kernels[head_of[c], k] * x[b, c, at]
    return y


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


@pytest.mark.pitfall(27)
@pytest.mark.parametrize("dim", DIMS)
def test_bias_is_added_once_an_output(dim):
    layer = filled(LAYERS[dim](4, 3, heads=2, bias=True))
    x = whole(2, 4, *(5, 4, 6)[:dim])
    want = FUNCTIONS[dim](x, layer.weight) + layer.bias.view(-1, *[1] * dim)
    assert_close(layer(x), want)
    assert_equal(layer(torch.zeros_like(x)), layer.bias.view(-1, *[1] * dim).expand_as(x))


@pytest.mark.pitfall(30)
@pytest.mark.parametrize("dim", DIMS)
def test_init_is_xavier_with_the_fans_of_one_filter_a_head(dim):
    heads, taps = 16, (7, 3, 3)[:dim]
    layer = LAYERS[dim](32, taps, heads=heads, bias=True)
    fan_in, fan_out = math.prod(taps), heads * math.prod(taps)
    bound = math.sqrt(6 / (fan_in + fan_out))
    drawn = layer.weight.detach().abs().max()
    assert 0.9 * bound < drawn <= bound
    assert drawn < math.sqrt(6 / (fan_in + heads)), "the fans are those of (H, K)"
    assert not layer.bias.any()


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


@pytest.mark.pitfall(31, 35, 36)
def test_the_state_holds_what_the_taps_still_need():
    layer = filled(nn.LightweightConv1d(4, 5, padding="causal", dilation=2, heads=2))
    x = whole(3, 4, 20)
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


@pytest.mark.pitfall(22, 24, 26)
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(
    ("shape", "head_layout"), [((4, 1, 5), "block"), ((4, 5), "block"), ((4, 1, 5), "interleaved")]
)
def test_loads_fairseq(shape, head_layout, softmax):
    """Against loops over fairseq's definition: (t, n, c) with heads in blocks, (n, c, t) with heads interleaved."""
    weights = {"conv.weight": torch.randn(shape, dtype=torch.float64), "conv.bias": torch.randn(8, dtype=torch.float64)}
    kernels = weights["conv.weight"].reshape(4, 5)
    if softmax:
        kernels = torch.stack([row.exp() / row.exp().sum() for row in kernels])
    for left in (0, 2, 4):
        arguments = {"padding": ((left, 4 - left),), "softmax": softmax, "head_layout": head_layout, "prefix": "conv."}
        layer = nn.LightweightConv1d.from_fairseq(weights, **arguments)
        x = torch.randn(2, 8, 3, dtype=torch.float64)
        want = looped(x, kernels, heads_of(8, 4, head_layout), left) + weights["conv.bias"].view(-1, 1)
        assert layer.weight.dtype == torch.float64
        assert_close(layer(x), want)


def test_fairseq_weights_of_something_else_are_refused():
    load = nn.LightweightConv1d.from_fairseq
    with pytest.raises(ValueError, match=r"`state_dict` names \(=\['weight', 'weight_g'\]\) must be 'weight'"):
        load({"weight": torch.zeros(2, 3), "weight_g": torch.zeros(1)}, 4)
    with pytest.raises(ValueError, match=r"`weight` shape \(=\(2, 2, 3\)\) must be \(h, 1, k\) or \(h, k\)"):
        load({"weight": torch.zeros(2, 2, 3)}, 4)
    with pytest.raises(ValueError, match=r"`channels` \(=None\) must be given"):
        load({"weight": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"`heads` \(=2\) must divide `channels` \(=5\); use 1 or 5"):
        load({"weight": torch.zeros(2, 3)}, 5)


def test_one_kernel_for_every_head_of_a_layer_is_what_is_held():
    layer = nn.LightweightConv2d(64, 3, heads=8, bias=True)
    assert {name: tuple(p.shape) for name, p in layer.state_dict().items()} == {"weight": (8, 3, 3), "bias": (64,)}
    assert repr(layer) == (
        "LightweightConv2d(64, kernel_size=(3, 3), heads=8, padding='same', softmax=True, bias=True)"
    )
    twin = pickle.loads(pickle.dumps(copy.deepcopy(layer)))  # noqa: S301 - its own bytes
    x = torch.randn(1, 64, 5, 6)
    assert_equal(twin(x), layer(x))
    for name in ("heads", "softmax", "head_layout", "stride"):
        with pytest.raises(AttributeError):
            setattr(layer, name, 3)


def test_counts():
    family, setting = named_settings()["lightweight"]
    image = family.cost(setting.build(Position(64, 64, (56, 56), (3, 3), (1, 1), (1, 1))))
    assert (image.params, image.macs, image.exponentials) == (72, 1_806_336, 72)
    assert image.macs == 64 * 56 * 56 * 9
    line = family.cost(setting.build(Position(64, 64, (100,), (7,), (1,), (1,))))
    assert (line.params, line.macs) == (56, 44_800)
    biased = family.cost(setting.build(Position(64, 64, (100,), (7,), (1,), (1,), bias=True)))
    assert (biased.params, biased.macs, biased.bias_adds) == (56 + 64, 44_800, 6_400)


def test_nearest_position():
    _, setting = named_settings()["lightweight"]
    assert setting.nearest(Position(64, 64, (9,), (3,), (1,), (1,))) is None
    near, note = setting.nearest(Position(30, 128, (9,), (3,), (1,), (1,)))
    assert (near.in_channels, near.out_channels, near.heads) == (30, 30, 6)
    assert note == "needs out = in; shown at 30 → 30; 8 heads do not divide 30 channels; shown with 6"
    with pytest.raises(ValueError, match=r"`out_channels` \(=128\) must be `in_channels` \(=64\); use 64"):
        setting.build(Position(64, 128, (9,), (3,), (1,), (1,)))


@pytest.mark.parametrize("dim", DIMS)
def test_layer_and_function_agree(dim):
    layer = LAYERS[dim](6, 3, 2, "tf_same", 2, heads=3, bias=True, padding_mode="zeros", head_layout="interleaved")
    x = torch.randn(2, 6, *(9, 8, 7)[:dim])
    numbers = {"stride": 2, "padding": "tf_same", "dilation": 2, "head_layout": "interleaved"}
    assert_equal(FUNCTIONS[dim](x, layer.weight, layer.bias, **numbers), layer(x))
    again = families()["lightweight"].layer_of(layer.problem)
    assert again.problem == layer.problem
    assert again(x).shape == layer(x).shape
    names = list(inspect.signature(FUNCTIONS[dim]).parameters)
    assert names[:5] == ["input", "weight", "bias", "padding", "softmax"]


BAD = [
    ({"heads": 3}, ValueError, r"`heads` \(=3\) must divide `channels` \(=8\); use 1, 2, 4 or 8"),
    ({"heads": 0}, ValueError, r"`heads` \(=0\) must be at least 1; use 1 or more"),
    ({"heads": 2.0}, TypeError, r"`heads` \(=2.0\) must be an integer, not float"),
    ({"channels": 0}, ValueError, r"`channels` \(=0\) must be at least 1"),
    ({"softmax": 1}, TypeError, r"`softmax` \(=1\) must be True or False, not int"),
    ({"dropout": 1.5}, ValueError, r"`dropout` \(=1.5\) must be from 0 to 1; use 1"),
    ({"dropout": -0.5}, ValueError, r"`dropout` \(=-0.5\) must be from 0 to 1; use 0"),
    ({"dropout": "0.1"}, TypeError, r"`dropout` \(='0.1'\) must be a number from 0 to 1, not str"),
    ({"head_layout": "mod"}, ValueError, r"`head_layout` \(='mod'\) must be one of .* use 'block' or 'interleaved'"),
    ({"stride": 2}, ValueError, r"`padding` \(='same'\) needs `stride` \(=2\) to be 1.*use 'tf_same'"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), BAD)
def test_wrong_arguments_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        nn.LightweightConv1d(**({"channels": 8, "kernel_size": 3} | wrong))


def test_wrong_tensors_are_refused():
    x, weight = torch.zeros(2, 8, 9), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"`heads` \(=3\) must divide `channels` \(=8\)"):
        OF.lightweight_conv1d(x, torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"`weight` shape \(=\(4, 1, 3\)\) must have 2 dimensions, \(h, \*k\)"):
        OF.lightweight_conv1d(x, weight.unsqueeze(1))
    with pytest.raises(ValueError, match=r"`input` has 4 dimensions and must have 3"):
        OF.lightweight_conv1d(x.unsqueeze(0), weight)
    with pytest.raises(ValueError, match=r"`input` has 1 dimensions and must have 3"):
        OF.lightweight_conv1d(torch.zeros(4), weight)
    with pytest.raises(ValueError, match=r"`bias` shape \(=\(4,\)\) must be \(8,\)"):
        OF.lightweight_conv1d(x, weight, torch.zeros(4))
    with pytest.raises(TypeError, match=r"`input` \(=list\) must be a torch.Tensor"):
        OF.lightweight_conv1d([1.0], weight)
    with pytest.raises(TypeError, match=r"`weight` \(=NoneType\) must be a torch.Tensor"):
        OF.lightweight_conv1d(x, None)
    with pytest.raises(ValueError, match=r"too small for a kernel that spans 11"):
        OF.lightweight_conv1d(x, torch.zeros(4, 11), padding="valid")


WRONG_PROBLEMS = [
    ("lightweight:c4_o4_k3_g4_softmax=1", r"`heads` is missing in the problem; write `heads=1`"),
    ("lightweight:c4_o4_k3_g4_heads=2", r"`softmax` is missing in the problem"),
    ("lightweight:c4_o8_k3_g4_heads=2_softmax=1", r"`out_channels` \(=8\) must be `in_channels` \(=4\); use 4"),
    ("lightweight:c4_o4_k3_heads=2_softmax=1", r"`groups` \(=1\) must be the number of channels \(=4\); use 4"),
    ("lightweight:c4_o4_k3_g4_heads=2_softmax=2", r"`softmax` \(=2\) must be 0 or 1 in a problem"),
    ("lightweight:c4_o4_k3_g4_heads=2_softmax=1_tails=2", r"`tails` \(=2\) is not known to this family"),
    ("lightweight:c4_o4_k3_g4_t_heads=2_softmax=1", r"`transposed` \(=True\) must be False"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_PROBLEMS)
def test_wrong_problems_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Plan(ConvProblem.parse(text))


def test_what_the_notes_call_grouped_conv1d():
    """A grouped convolution takes no (H, K) weight; and H heads hold H·K numbers, not d·H."""
    x, weight = torch.randn(1, 6, 9), torch.randn(3, 7)
    with pytest.raises(RuntimeError):
        F.conv1d(x, weight.unsqueeze(1), groups=3)
    repeated = weight.softmax(1).repeat_interleave(2, 0).unsqueeze(1)
    assert_close(OF.lightweight_conv1d(x, weight), F.conv1d(x, repeated, padding=3, groups=6))
    assert repeated.numel() == 42
    assert weight.numel() == 21


@settings(max_examples=20)
@given(st.integers(1, 12), st.integers(1, 9))
def test_every_chunk_length_gives_the_whole(length, chunk):
    layer = filled(nn.LightweightConv1d(4, 4, padding="causal", heads=2, softmax=False))
    x, state, pieces = whole(1, 4, length), layer.initial_state(), []
    for part in x.split(chunk, dim=2):
        piece, state = layer.step(part, state)
        pieces.append(piece)
    assert_equal(torch.cat(pieces, dim=2), layer(x))
