# SPDX-License-Identifier: Apache-2.0
"""The dynamic layer: fairseq's weights, first values, costs, and what it refuses."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch

import omniconv.functional as OF
from families.heads import looped_dynamic, reals
from omniconv import nn
from omniconv.core.family import Position, families
from omniconv.core.family import settings as named_settings
from omniconv.core.observe import listening
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from tolerance import assert_close, assert_equal

DIMS = (1, 2, 3)
LAYERS = {d: getattr(nn, f"DynamicConv{d}d") for d in DIMS}
FUNCTIONS = {d: getattr(OF, f"dynamic_conv{d}d") for d in DIMS}


@pytest.mark.pitfall(28)
@pytest.mark.parametrize("biased", [True, False])
def test_loads_fairseq_in_proj(biased):
    """One linear layer of C + H·K rows, split in that order; values are projected, and then padded with zeros."""
    weights = {"weight_linear.weight": reals(6 + 2 * 3, 6), "conv_bias": reals(6)}
    if biased:
        weights["weight_linear.bias"] = reals(6 + 2 * 3)
    x = reals(2, 6, 5)
    projected = torch.einsum("oq,nqt->not", weights["weight_linear.weight"], x)
    projected = projected + weights.get("weight_linear.bias", torch.zeros(12)).view(-1, 1)
    values, numbers = projected[:, :6], projected[:, 6:].transpose(1, 2)
    for padding, left in (("same", 1), ("causal", 2)):
        layer = nn.DynamicConv1d.from_fairseq(weights, 2, in_proj=True, padding=padding)
        assert_close(layer(x), looped_dynamic(values, numbers, 2, left) + weights["conv_bias"].view(-1, 1))


@pytest.mark.pitfall(22, 24, 27)
@pytest.mark.parametrize("renorm", [True, False])
def test_loads_fairseq(renorm):
    weights = {"a.weight_linear.weight": reals(4 * 3, 5), "a.weight_linear.bias": reals(12), "a.conv_bias": reals(8)}
    layer = nn.DynamicConv1d.from_fairseq(weights, 4, 8, prefix="a.", padding="causal", renorm_padding=renorm)
    assert (layer.query_channels, layer.kernel_size, layer.heads) == (5, (3,), 4)
    x, query = reals(2, 8, 6), reals(2, 5, 6)
    numbers = torch.einsum("oq,nqt->nto", weights["a.weight_linear.weight"], query) + weights["a.weight_linear.bias"]
    assert_close(layer(x, query), looped_dynamic(x, numbers, 4, 2, renorm=renorm) + weights["a.conv_bias"].view(-1, 1))
    raw = nn.DynamicConv1d.from_fairseq({"weight_linear.weight": reals(10, 6)}, 2, softmax=False)
    assert (raw.in_channels, raw.kernel_size, raw.query_channels) == (6, (5,), None)
    assert raw.bias is None
    assert raw.predictor.bias is None


def test_fairseq_weights_of_something_else_are_refused():
    load = nn.DynamicConv1d.from_fairseq
    with pytest.raises(ValueError, match=r"`state_dict` names \(=\['weight'\]\) must be among"):
        load({"weight": torch.zeros(2, 3)}, 2)
    with pytest.raises(ValueError, match=r"must have 0 rows and then a multiple of `heads` \(=4\)"):
        load({"weight_linear.weight": torch.zeros(6, 8)}, 4)
    with pytest.raises(ValueError, match=r"must have 8 rows and then a multiple of `heads` \(=2\)"):
        load({"weight_linear.weight": torch.zeros(8, 8)}, 2, in_proj=True)


@pytest.mark.pitfall(30)
@pytest.mark.parametrize("dim", DIMS)
def test_init_is_xavier_over_the_rows_of_the_predictor(dim):
    layer = LAYERS[dim](24, (5, 3, 3)[:dim], heads=4, in_proj=True, predictor_bias=True, bias=True)
    for part in (layer.predictor, layer.in_proj):
        bound = math.sqrt(6 / (part.weight.shape[0] + part.weight.shape[1]))
        drawn = part.weight.detach().abs().max()
        assert 0.9 * bound < drawn <= bound
        assert not part.bias.any()
    assert not layer.bias.any()


def test_a_predictor_of_the_wrong_shape_is_refused():
    x = torch.zeros(1, 4, 7)
    for predictor in (torch.nn.Conv1d(4, 5, 1), torch.nn.Conv1d(4, 6, 3)):
        layer = nn.DynamicConv1d(4, 3, heads=2, predictor=predictor)
        with pytest.raises(ValueError, match=r"`predictor` gives shape .* must give \(1, 6, 7\)"):
            layer(x)
    with pytest.raises(ValueError, match=r"`predictor_bias` \(=True\) belongs to the layer's own predictor"):
        nn.DynamicConv1d(4, 3, predictor_bias=True, predictor=torch.nn.Identity())
    with pytest.raises(TypeError, match=r"`predictor` \(=str\) must be a torch.nn.Module"):
        nn.DynamicConv1d(4, 3, predictor="linear")


def test_counts():
    family, setting = named_settings()["dynamic"]
    image = family.cost(setting.build(Position(64, 64, (56, 56), (3, 3), (1, 1), (1, 1))))
    assert image.params == 64 * 8 * 9 == 4_608
    assert image.macs == 64 * 72 * 3136 + 1_806_336 == 16_257_024
    assert [step.name for step in image.steps] == ["predictor", "dynamic convolution"]
    assert image.exponentials == 8 * 9 * 3136
    mean, *_ = family.cost(nn.DynamicConv1d(6, 3, context="sequence").problem.at((7,), 2)).steps
    assert (mean.name, mean.inputs.value, mean.outputs.value, mean.macs.value) == ("mean over positions", 84, 12, 0)
    line = family.cost(setting.build(Position(64, 64, (100,), (7,), (1,), (1,))))
    assert (line.params, line.macs) == (3_584, 403_200)


@pytest.mark.parametrize(
    "special",
    [
        {},
        {"predictor_bias": True, "bias": True},
        {"query_channels": 5},
        {"in_proj": True, "context": "sequence"},
        {"context": "sequence", "renorm_padding": True},
        {"stride": 2, "padding": 1, "in_proj": True},
    ],
)
@pytest.mark.parametrize("dim", DIMS)
def test_costs_are_what_the_layer_holds_and_its_calls_multiply(dim, special):
    layer = LAYERS[dim](6, 3, heads=2, **special)
    x = torch.randn(2, 6, *(7, 5, 6)[:dim])
    problem = layer.problem.at(tuple(x.shape[2:]), 2)
    query = (torch.randn(2, 5, *problem.out_size),) if layer.query_channels else ()
    macs = []

    def listen(seen, tensors, run):
        macs.append(families()[seen.family].cost(seen).macs)
        return run()

    with listening(listen):
        layer(x, *query)
    cost = families()["dynamic"].cost(problem)
    assert cost.params == sum(p.numel() for p in layer.parameters())
    assert cost.macs == sum(macs)
    assert ConvProblem.parse(str(problem)) == problem
    again = families()["dynamic"].layer_of(layer.problem)
    assert again.problem == layer.problem
    assert {n: p.shape for n, p in again.state_dict().items()} == {n: p.shape for n, p in layer.state_dict().items()}


def test_what_the_notes_call_slightly_more():
    """C·H·K + H·K numbers where lightweight holds H·K; and the notes' kernel of a head runs only by accident."""
    layer = nn.DynamicConv1d(64, 5, heads=8, predictor_bias=True)
    assert sum(p.numel() for p in layer.parameters()) == 64 * 40 + 40 == 2_600
    assert sum(p.numel() for p in nn.LightweightConv1d(64, 5, heads=8).parameters()) == 40
    for batch, runs in ((4, False), (8, True)):
        grouped, w = torch.randn(batch, 8, 8, 100), torch.randn(batch, 8, 5)
        if runs:
            assert grouped.mul(w[:, :, :1]).shape == grouped.shape
            assert not torch.equal(grouped * w[:, :, :1], grouped * w[:, :, :1, None])
        else:
            with pytest.raises(RuntimeError):
                grouped.mul(w[:, :, :1])


def test_repr_copies_and_fixed_numbers():
    layer = nn.DynamicConv1d(8, 5, heads=4, renorm_padding=True, context="sequence", bias=True)
    assert repr(layer).splitlines()[1] == (
        "  8, kernel_size=(5,), heads=4, padding='same', renorm_padding=True, context='sequence', bias=True"
    )
    twin = pickle.loads(pickle.dumps(copy.deepcopy(layer)))  # noqa: S301 - its own bytes
    x = torch.randn(2, 8, 9)
    assert_equal(twin(x), layer(x))
    for name in ("heads", "softmax", "renorm_padding", "context", "query_channels", "stride"):
        with pytest.raises(AttributeError):
            setattr(layer, name, 3)


@pytest.mark.parametrize("dim", DIMS)
def test_functions_take_what_the_layer_predicts(dim):
    numbers = {"stride": 2, "padding": "tf_same", "dilation": 2}
    layer = LAYERS[dim](6, 3, heads=3, bias=True, **numbers)
    x = torch.randn(2, 6, *(9, 8, 7)[:dim])
    numbers_at = layer.predictor(x[(..., *(slice(None, None, 2),) * dim)])
    weight = numbers_at.unflatten(1, (3, *(3,) * dim))
    assert_equal(FUNCTIONS[dim](x, weight, layer.bias, **numbers), layer(x))
    assert_equal(FUNCTIONS[dim](x[0], weight[0], layer.bias, **numbers), layer(x[0]))
    assert list(inspect.signature(FUNCTIONS[dim]).parameters)[:5] == ["input", "weight", "bias", "padding", "softmax"]


BAD = [
    ({"heads": 3}, ValueError, r"`heads` \(=3\) must divide `channels` \(=8\); use 1, 2, 4 or 8"),
    ({"heads": None}, TypeError, r"`heads` \(=None\) must be an integer"),
    ({"softmax": "yes"}, TypeError, r"`softmax` \(='yes'\) must be True or False"),
    (
        {"renorm_padding": True, "softmax": False},
        ValueError,
        r"`renorm_padding` \(=True\) must be False without softmax",
    ),
    (
        {"renorm_padding": True, "padding_mode": "reflect"},
        ValueError,
        r"`renorm_padding` \(=True\) must be False where padding holds data .*'reflect'",
    ),
    ({"dropout": 2}, ValueError, r"`dropout` \(=2\) must be from 0 to 1; use 1"),
    ({"query_channels": 0}, ValueError, r"`query_channels` \(=0\) must be at least 1"),
    ({"context": "mean"}, ValueError, r"`context` \(='mean'\) must be one of .* use 'position' or 'sequence'"),
    ({"padding": 2}, ValueError, r"`padding` \(=\(2, 2\)\) on spatial axis 0 makes outputs .* d\(k-1\) = 2 or less"),
    ({"in_proj": 1}, TypeError, r"`in_proj` \(=1\) must be True or False"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), BAD)
def test_wrong_arguments_are_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        nn.DynamicConv1d(**({"channels": 8, "kernel_size": 3} | wrong))


def test_wrong_tensors_are_refused():
    x, weight = torch.zeros(2, 8, 9), torch.zeros(2, 4, 3, 9)
    with pytest.raises(ValueError, match=r"`weight` shape \(=\(2, 4, 3, 8\)\) must be \(2, 4, 3, 9\)"):
        OF.dynamic_conv1d(x, weight[..., 1:])
    with pytest.raises(ValueError, match=r"`weight` shape \(=\(4, 3, 9\)\) must have 4 dimensions, \(n, h, k, p\)"):
        OF.dynamic_conv1d(x, weight[0])
    with pytest.raises(ValueError, match=r"`weight` shape \(=\(2, 4, 3, 9\)\) must have 3 dimensions, \(h, k, p\)"):
        OF.dynamic_conv1d(x[0], weight)
    with pytest.raises(ValueError, match=r"`heads` \(=3\) must divide `channels` \(=8\)"):
        OF.dynamic_conv1d(x, weight[:, :3])
    with pytest.raises(TypeError, match=r"`input` \(=NoneType\) must be a torch.Tensor"):
        OF.dynamic_conv1d(None, weight)
    with pytest.raises(ValueError, match=r"`input` channels \(=7\) must be `in_channels` \(=8\)"):
        nn.DynamicConv1d(8, 3)(x[:, 1:])
    with pytest.raises(TypeError, match=r"`input` \(=list\) must be a torch.Tensor"):
        nn.DynamicConv1d(8, 3)([1.0])
    with pytest.raises(ValueError, match=r"too small for a kernel that spans 11"):
        nn.DynamicConv1d(8, 11, padding="valid")(x)


WRONG_PROBLEMS = [
    ("dynamic:c4_o4_k3_g4_heads=2_softmax=1_query=3", r"`query` \(=3\) belongs to a predictor; write `predictor=1`"),
    ("dynamic:c4_o4_k3_g4_heads=2_softmax=3", r"`softmax` \(=3\) must be 0 or 1"),
    ("dynamic:c4_o4_k3_g4_context=all_heads=2_softmax=1", r"`context` \(='all'\) must be one of"),
    ("dynamic:c4_o4_k3_heads=2_softmax=1", r"`groups` \(=1\) must be the number of channels \(=4\)"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_PROBLEMS)
def test_wrong_problems_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Plan(ConvProblem.parse(text))
