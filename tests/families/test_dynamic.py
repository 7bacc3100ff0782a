# SPDX-License-Identifier: Apache-2.0
"""Laws of the dynamic convolution: a kernel a position, and lightweight where all are one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import omniconv.functional as OF
from families.heads import filled, looped_dynamic, reals, whole
from omniconv import nn
from omniconv.core.problem import PADDING_MODES, ConvProblem
from omniconv.core.register import Plan
from omniconv.ops.dynamic.aten import normalized
from tolerance import assert_close, assert_equal

DIMS = (1, 2, 3)
LAYERS = {d: getattr(nn, f"DynamicConv{d}d") for d in DIMS}
FUNCTIONS = {d: getattr(OF, f"dynamic_conv{d}d") for d in DIMS}
LIGHT_FUNCTIONS = {d: getattr(OF, f"lightweight_conv{d}d") for d in DIMS}
LIGHT = {d: getattr(nn, f"LightweightConv{d}d") for d in DIMS}


@st.composite
def problems(draw):
    """A dynamic problem without softmax on an input that is large enough."""
    dim, heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    channels = heads * draw(st.integers(1, 3))
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in range(dim)) for most in (3, 3, 2))
    pairs = st.tuples(st.integers(0, 3), st.integers(0, 3))
    padding = [
        draw(st.one_of(pairs, st.sampled_from(("valid", "tf_same", "same_lower", "causal")))) for _ in range(dim)
    ]
    size = tuple(d * (k - 1) + 4 + draw(st.integers(0, 2)) for k, d in zip(kernel, dilation, strict=True))
    numbers = (kernel, stride, padding, dilation, channels)
    mode = draw(st.sampled_from(PADDING_MODES))
    special = {"heads": heads, "softmax": 0}
    return ConvProblem.of(
        "dynamic", dim, channels, channels, *numbers, padding_mode=mode, in_size=size, batch=2, **special
    )


@given(problems())
def test_one_kernel_for_all_positions_is_lightweight(problem):
    x, weight = whole(2, problem.in_channels, *problem.in_size), whole(problem["heads"], *problem.kernel_size)
    numbers = {"stride": problem.stride, "padding": problem.padding, "dilation": problem.dilation}
    words = {"padding_mode": problem.padding_mode, "softmax": False}
    want = LIGHT_FUNCTIONS[problem.dim](x, weight, **numbers, **words)
    ones = (1,) * problem.dim
    spread = weight.view(1, *weight.shape, *ones).expand(2, *weight.shape, *problem.out_size)
    assert_equal(FUNCTIONS[problem.dim](x, spread, **numbers, **words), want)
    single = weight.view(1, *weight.shape, *ones).expand(2, *weight.shape, *ones)
    assert_equal(FUNCTIONS[problem.dim](x, single, context="sequence", **numbers, **words), want)


@given(problems())
def test_each_position_has_its_kernel(problem):
    """The output at a position is that of a lightweight convolution with the position's kernel."""
    x = whole(2, problem.in_channels, *problem.in_size)
    weight = whole(2, problem["heads"], *problem.kernel_size, *problem.out_size)
    output = Plan(problem)(x, weight, None)
    place = tuple((s - 1) // 2 for s in problem.out_size)
    for n in range(2):
        light = replace(problem, family="lightweight", batch=None, in_size=None)
        alone = Plan(light)(x[n : n + 1], weight[(n, ..., *place)], None)
        assert_equal(output[(n, slice(None), *place)], alone[(0, slice(None), *place)])


@pytest.mark.parametrize("dim", DIMS)
def test_a_constant_predictor_is_lightweight(dim):
    heads, taps = 2, (3, 2, 3)[:dim]
    layer = LAYERS[dim](6, taps, heads=heads, predictor_bias=True, bias=True).double()
    light = LIGHT[dim](6, taps, heads=heads, bias=True).double()
    with torch.no_grad():
        layer.predictor.weight.zero_()
        layer.predictor.bias.copy_(light.weight.flatten())
        layer.bias.copy_(light.bias.copy_(reals(6)))
    x = reals(2, 6, *(7, 5, 6)[:dim])
    assert_close(layer(x), light(x))


@pytest.mark.pitfall(22, 23, 24, 26, 28)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("renorm", [True, False])
@pytest.mark.parametrize("taps", [3, 4, 9])
def test_is_fairseq_dynamic_convolution(taps, renorm, normalize):
    """The layer against loops over the definition, for any padding on the left and kernels longer than the sequence."""
    if renorm and not normalize:
        return
    layer = nn.DynamicConv1d(6, taps, heads=2, softmax=normalize, renorm_padding=renorm, predictor_bias=True).double()
    x = reals(2, 6, 5)
    numbers = torch.einsum("oq,nqt->nto", layer.predictor.weight[..., 0], x) + layer.predictor.bias
    for left in {0, taps // 2, taps - 1}:
        padding = ((left, taps - 1 - left),)
        one = nn.DynamicConv1d(
            6, taps, padding=padding, heads=2, softmax=normalize, renorm_padding=renorm, predictor_bias=True
        )
        one.double().load_state_dict(layer.state_dict())
        assert_close(one(x), looped_dynamic(x, numbers, 2, left, normalize=normalize, renorm=renorm))


@pytest.mark.pitfall(24)
@pytest.mark.parametrize("dim", DIMS)
def test_renormalized_taps_on_data_sum_to_one(dim):
    """As published an input of ones loses what falls on padding; renormalised it stays ones, at any length."""
    x = torch.ones(2, 4, *(3, 5, 4)[:dim], dtype=torch.float64)
    taps = (7, 3, 5)[:dim]
    weight = reals(2, 2, *taps, *x.shape[2:])
    lost = FUNCTIONS[dim](x, weight)
    assert bool((lost < 1).any())
    assert_close(FUNCTIONS[dim](x, weight, renorm_padding=True), x)


@pytest.mark.pitfall(24)
def test_a_position_without_data_gives_zero_and_no_nan():
    """At stride 4 with much padding a whole window can lie on padding: its output and its gradient are zero."""
    x, weight = reals(1, 2, 3).requires_grad_(), reals(1, 1, 2, 3).requires_grad_()
    output = OF.dynamic_conv1d(x, weight, padding=((5, 5),), stride=4, renorm_padding=True)
    assert_equal(output[..., 0], torch.zeros(1, 2))
    to_x, to_weight = torch.autograd.grad(output.sum(), (x, weight))
    assert bool(to_x.isfinite().all() and to_weight.isfinite().all())
    assert not to_weight[..., 0].any()


@pytest.mark.pitfall(23)
@pytest.mark.parametrize("dim", DIMS)
def test_softmax_is_over_the_taps_of_a_head_at_a_position(dim):
    taps, positions = (3, 2, 2)[:dim], (4, 3, 2)[:dim]
    weight = reals(2, 3, *taps, *positions)
    shares = normalized(weight, (9,) * dim, (1,) * dim, (0, 0) * dim, (1,) * dim, renorm=False)
    assert shares.shape == weight.shape
    assert_close(shares.flatten(2, 1 + dim).sum(2), torch.ones(2, 3, *positions, dtype=torch.float64))
    one = weight[(1, 2, ..., *(0,) * dim)]
    assert_close(shares[(1, 2, ..., *(0,) * dim)], one.exp() / one.exp().sum())
    low = normalized(weight.bfloat16(), (9,) * dim, (1,) * dim, (0, 0) * dim, (1,) * dim, renorm=False)
    assert low.dtype == torch.float32


def effective(layer, count):
    """The kernels (H, K) that ``count`` equal positions use in one call, read off one channel of impulses a head."""
    taps = layer.kernel_size[0]
    x = torch.zeros(1, layer.in_channels, count * taps, dtype=torch.float64)
    x[..., taps // 2 :: taps] = 1
    return layer(x)[0, :: layer.in_channels // layer.heads].unflatten(1, (count, taps)).flip(-1)


@pytest.mark.pitfall(25)
def test_dropconnect_is_drawn_for_each_position_after_the_softmax():
    layer = nn.DynamicConv1d(4, 5, heads=2, dropout=0.25, predictor_bias=True).double()
    with torch.no_grad():
        layer.predictor.weight.zero_()
        layer.predictor.bias.copy_(reals(10))
    shares = layer.predictor.bias.detach().view(2, 1, 5).softmax(2).expand(2, 200, 5)
    assert_close(effective(layer.eval(), 200), shares)
    drawn = effective(layer.train(), 200).detach()
    kept = drawn != 0
    assert_close(drawn[kept], shares[kept] / 0.75)
    count, p = drawn.numel(), 0.25
    assert abs(int((~kept).sum()) - count * p) < 6 * math.sqrt(count * p * (1 - p))
    assert not torch.equal(kept[:, 0], kept[:, 1]) or not torch.equal(kept[:, 1], kept[:, 2])


@pytest.mark.pitfall(25)
@pytest.mark.parametrize("renorm", [True, False])
@pytest.mark.parametrize("context", ["position", "sequence"])
def test_dropconnect_is_seeded_and_off_at_zero(context, renorm):
    layer = nn.DynamicConv1d(8, 5, heads=4, dropout=0.5, context=context, renorm_padding=renorm)
    x = torch.randn(2, 8, 7)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert_equal(layer(x), first)
    assert not torch.equal(first, second)
    layer.dropout = 0.0
    assert_equal(layer(x), layer.eval()(x))
    layer.dropout = 1.0
    assert not layer.train()(x).any()


@pytest.mark.pitfall(29)
@pytest.mark.parametrize("padding", ["same", "causal"])
def test_positions_masked_to_zero_are_as_if_the_sequence_ended(padding):
    layer = nn.DynamicConv1d(4, 5, padding=padding, heads=2, bias=True).double()
    x = reals(2, 4, 12)
    masked = x * (torch.arange(12) < 7)
    assert_close(layer(masked)[:, :, :7], layer(x[:, :, :7]))


@pytest.mark.pitfall(27)
@pytest.mark.parametrize("dim", DIMS)
def test_both_biases(dim):
    layer = filled(LAYERS[dim](4, 3, heads=2, bias=True, predictor_bias=True, softmax=False))
    x = whole(2, 4, *(5, 4, 6)[:dim])
    numbers = layer.predictor.weight.flatten(1) @ x.flatten(2) + layer.predictor.bias.view(-1, 1)
    weight = numbers.view(2, 2, *(3,) * dim, *x.shape[2:])
    plain = FUNCTIONS[dim](x, weight, softmax=False)
    assert_equal(layer(x), plain + layer.bias.view(-1, *[1] * dim))


@pytest.mark.pitfall(28)
def test_the_query_predicts_in_place_of_the_input():
    layer = nn.DynamicConv1d(6, 3, heads=2, query_channels=5).double()
    x, query = reals(2, 6, 7), reals(2, 5, 7)
    numbers = torch.einsum("oq,nqt->nto", layer.predictor.weight[..., 0], query)
    assert_close(layer(x, query), looped_dynamic(x, numbers, 2, 1))
    own = nn.DynamicConv1d(6, 3, heads=2).double()
    assert_equal(own(x, x), own(x))
    assert not torch.equal(own(x, reals(2, 6, 7)), own(x))
    single = layer(x[0], query[0])
    assert_equal(single, layer(x[:1], query[:1])[0])
    with pytest.raises(TypeError, match=r"`query` \(=None\) must be a torch.Tensor of `query_channels` \(=5\)"):
        layer(x)
    with pytest.raises(TypeError, match=r"`query` \(=list\) must be a torch.Tensor or None"):
        layer(x, [1.0])
    for wrong in [(2, 6, 7), (2, 5, 6), (2, 5)]:
        with pytest.raises(ValueError, match=r"`query` shape .* must have a batch, 5 channels and \(7,\) positions"):
            layer(x, torch.zeros(wrong, dtype=torch.float64))


@pytest.mark.parametrize("dim", DIMS)
def test_a_strided_layer_predicts_at_the_positions_that_it_keeps(dim):
    numbers = {"stride": 2, "padding": ((1, 1),) * dim, "heads": 2}
    layer = LAYERS[dim](4, 3, **numbers).double()
    dense = LAYERS[dim](4, 3, padding=((1, 1),) * dim, heads=2).double()
    dense.load_state_dict(layer.state_dict())
    x = reals(2, 4, *(7, 6, 5)[:dim])
    kept = (..., *(slice(None, None, 2),) * dim)
    assert_close(layer(x), dense(x)[kept])
    assert_close(layer(x, x[kept]), layer(x))


@pytest.mark.parametrize("dim", DIMS)
def test_moves_with_its_input(dim):
    layer = LAYERS[dim](4, 3, heads=2).double()
    x = torch.zeros(1, 4, *(12,) * dim, dtype=torch.float64)
    x[(..., *(slice(3, 6),) * dim)] = reals(1, 4, *(3,) * dim)
    axes = tuple(range(2, 2 + dim))
    assert_close(layer(torch.roll(x, (2,) * dim, axes)), torch.roll(layer(x), (2,) * dim, axes))


def test_without_softmax_an_image_gives_involution():
    """Against unfolded patches times a kernel a pixel and group, from a bottleneck of the pixel's own features."""
    channels, groups, k, stride = 8, 2, 3, 2
    reduce = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, groups * k * k, 1)
    ).double()
    x = reals(2, channels, 6, 8)
    query = F.avg_pool2d(x, stride)
    layer = nn.DynamicConv2d(
        channels, k, stride, padding=1, heads=groups, softmax=False, predictor=reduce, query_channels=channels
    )
    kernels = reduce(query).view(2, groups, 1, k * k, 3, 4)
    patches = F.unfold(x, k, padding=1, stride=stride).view(2, groups, channels // groups, k * k, 3, 4)
    assert_close(layer(x, query), (patches * kernels).sum(3).view(2, channels, 3, 4))
    assert set(layer.state_dict()) == {f"predictor.{n}" for n in reduce.state_dict()}


def test_memory_grows_with_the_positions_and_not_with_their_products():
    """No T×T band and no unfolded input: no tensor of a call holds more than the padded input or the kernels."""
    x, weight = torch.randn(1, 8, 512), torch.randn(1, 2, 9, 512)

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (list, tuple)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    self.seen = max(self.seen, tensor.untyped_storage().nbytes() // tensor.element_size())
            return result

    with Largest() as largest:
        OF.dynamic_conv1d(x, weight)
    assert 8 * 512 <= largest.seen <= weight.numel() < 8 * 512 * 9
