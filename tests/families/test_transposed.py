# SPDX-License-Identifier: Apache-2.0
"""Laws of the transposed convolution: it is the adjoint, torch's layer, and the sum of scattered kernels."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.family import Position, families
from omniconv.core.family import settings as named_settings
from omniconv.core.problem import ConvProblem
from omniconv.core.taps import count_products
from tolerance import assert_close, assert_equal

LAYERS = {d: (getattr(nn, f"ConvTranspose{d}d"), getattr(torch.nn, f"ConvTranspose{d}d")) for d in (1, 2, 3)}
CONVS = {d: (getattr(OF, f"conv{d}d"), getattr(OF, f"conv_transpose{d}d")) for d in (1, 2, 3)}


def whole(*shape):
    """Small whole numbers in float64: every sum of their products is exact."""
    return torch.randint(-3, 4, shape).double()


@st.composite
def gathers(draw, rules=(None,), most_axes=2):
    """A gathering problem with an input size, its padding a pair per axis or one of ``rules``."""
    dim, groups = draw(st.integers(1, most_axes)), draw(st.integers(1, 3))
    axes = [
        {
            "kernel_size": draw(st.integers(1, 4)),
            "stride": draw(st.integers(1, 4)),
            "dilation": draw(st.integers(1, 3)),
            "padding": draw(st.sampled_from(rules)) or (draw(st.integers(0, 4)), draw(st.integers(0, 4))),
            "in_size": draw(st.integers(1, 9)),
        }
        for _ in range(dim)
    ]
    for axis in axes:
        missing = axis["dilation"] * (axis["kernel_size"] - 1) + 1 - axis["in_size"]
        axis["in_size"] += max(missing, 0)
        if isinstance(axis["padding"], str):
            axis["in_size"] += -axis["in_size"] % axis["stride"]
    arguments = {name: tuple(axis[name] for axis in axes) for name in axes[0]}
    channels = (groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)))
    return ConvProblem.of("conv", dim, *channels, groups=groups, **arguments)


def assert_adjoint(gather, back):
    """⟨conv(x), y⟩ = ⟨x, convT(y)⟩ with one weight for both; returns nothing where it holds to the last bit."""
    x = whole(2, gather.in_channels, *gather.in_size)
    y = whole(2, gather.out_channels, *gather.out_size)
    weight = whole(gather.out_channels, gather.in_channels // gather.groups, *gather.kernel_size)
    conv, transposed = CONVS[gather.dim]
    forth = conv(x, weight, None, gather.stride, gather.padding, gather.dilation, gather.groups)
    again = transposed(y, weight, None, gather.stride, *back, gather.groups, gather.dilation)
    assert_equal((forth * y).sum(), (x * again).sum())


@pytest.mark.pitfall(17)
@settings(max_examples=150)
@given(gathers())
def test_adjoint_of_convolution_with_pairs(gather):
    pairs = gather.pads()
    reached = [(p - 1) * s + e for p, s, e in zip(gather.out_size, gather.stride, gather.span, strict=True)]
    left = [i + b + a - r for i, (b, a), r in zip(gather.in_size, pairs, reached, strict=True)]
    assert_adjoint(gather, (pairs, tuple(left)))


@pytest.mark.pitfall(19)
@settings(max_examples=80)
@given(gathers(rules=("tf_same", "same_lower")))
def test_adjoint_of_convolution_with_rules(gather):
    assert_adjoint(gather, (gather.padding, 0))


@pytest.mark.pitfall(17)
def test_the_kernel_is_written_as_it_lies():
    kernel = torch.arange(12.0).view(1, 2, 2, 3)
    assert_equal(OF.conv_transpose2d(torch.ones(1, 1, 1, 1), kernel), kernel)


@settings(max_examples=60)
@given(gathers())
def test_equals_a_convolution_of_the_stuffed_input_with_the_flipped_kernel(gather):
    """s−1 zeros between inputs, e−1 around them, and the kernel turned round: "fancy padding", not an inverse."""
    g, dim = gather.groups, gather.dim
    x = whole(1, gather.in_channels, *gather.in_size)
    weight = whole(gather.in_channels, gather.out_channels // g, *gather.kernel_size)
    stuffed = x.new_zeros(*x.shape[:2], *((i - 1) * s + 1 for i, s in zip(gather.in_size, gather.stride, strict=True)))
    stuffed[(..., *(slice(None, None, s) for s in gather.stride))] = x
    turned = weight.flip(tuple(range(2, dim + 2))).unflatten(0, (g, -1)).transpose(1, 2).flatten(0, 1)
    around = tuple((e - 1, e - 1) for e in gather.span)
    want = CONVS[dim][0](stuffed, turned, None, 1, around, gather.dilation, g)
    assert_equal(CONVS[dim][1](x, weight, None, gather.stride, 0, 0, g, gather.dilation), want)


GEOMETRIES = [
    (1, {"kernel_size": 5, "stride": 3, "padding": 2, "output_padding": 1}),
    (1, {"kernel_size": 2, "stride": 1, "padding": 0, "dilation": 4, "output_padding": 3, "bias": False}),
    (2, {"kernel_size": (4, 3), "stride": (2, 1), "padding": (1, 2), "groups": 2}),
    (2, {"kernel_size": 3, "stride": (2, 3), "padding": 1, "output_padding": (1, 2), "dilation": (2, 1)}),
    (3, {"kernel_size": (2, 3, 1), "stride": (2, 1, 2), "padding": (0, 1, 0), "groups": 2, "bias": False}),
]


@pytest.mark.parametrize(("dim", "arguments"), GEOMETRIES)
def test_layer_is_torchs(dim, arguments):
    ours, theirs = LAYERS[dim]
    torch.manual_seed(3)
    mine = ours(4, 6, **arguments)
    torch.manual_seed(3)
    other = theirs(4, 6, **arguments)
    assert list(mine.state_dict()) == list(other.state_dict())
    for name, parameter in mine.named_parameters():
        assert_close(parameter, other.get_parameter(name))
    mine.load_state_dict(other.state_dict())
    x = torch.randn(2, 4, *range(4, 4 + dim))
    assert_close(mine(x), other(x))
    assert_close(mine(x[0]), other(x[0]))
    for name in (
        "stride",
        "padding",
        "output_padding",
        "dilation",
        "groups",
        "kernel_size",
        "transposed",
        "padding_mode",
    ):
        assert getattr(mine, name) == getattr(other, name), name


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_signatures_are_torchs(dim):
    ours, theirs = (list(inspect.signature(layer).parameters.values()) for layer in LAYERS[dim])
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]
    forward = [list(inspect.signature(layer.forward).parameters) for layer in LAYERS[dim]]
    assert forward[0] == forward[1]
    shown = re.search(r"\((.*)\) -> Tensor", getattr(F, f"conv_transpose{dim}d").__doc__)[1]
    mine = list(inspect.signature(CONVS[dim][1]).parameters.values())
    assert ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in mine[:-1]) == shown
    assert (mine[-1].name, mine[-1].kind) == ("padding_mode", inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.pitfall(18)
def test_output_size_reaches_what_torch_reaches():
    ours, theirs = (layer(3, 2, (3, 4), (2, 3), (1, 0), dilation=1) for layer in LAYERS[2])
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 5, 4)
    sizes = list(product(range(8, 13), range(12, 18)))
    reached = []
    for size in sizes:
        try:
            want = theirs(x, output_size=size)
        except ValueError:
            with pytest.raises(ValueError, match=re.escape("use (9, 13) (output_padding=0) to (10, 15)")):
                ours(x, output_size=size)
            continue
        reached.append(size)
        assert_equal(ours(x, output_size=list(size)), want)
        assert_equal(ours(x, output_size=torch.Size((1, 2, *size))), want)
        assert_equal(ours(x[0], (2, *size)), want[0])
    assert reached == list(product((9, 10), (13, 14, 15)))


@pytest.mark.pitfall(18)
def test_nothing_can_be_appended_without_stride_or_dilation():
    layer = nn.ConvTranspose1d(1, 1, 3)
    assert layer(torch.ones(1, 1, 4), output_size=(6,)).shape[-1] == 6
    for size in (5, 7):
        with pytest.raises(ValueError, match=r"`output_size`.*use \(6,\)"):
            layer(torch.ones(1, 1, 4), output_size=(size,))


@pytest.mark.pitfall(18)
@pytest.mark.parametrize(("stride", "dilation", "most"), [(1, 1, 0), (3, 1, 2), (2, 4, 3)])
def test_output_padding_is_legal_below_stride_or_dilation_and_appends_at_the_end(stride, dilation, most):
    x, weight = whole(1, 2, 5), whole(2, 3, 3)
    bias = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    plain = OF.conv_transpose1d(x, weight, bias, stride, 1, 0, 1, dilation)
    for extra in range(most + 1):
        longer = OF.conv_transpose1d(x, weight, bias, stride, 1, extra, 1, dilation)
        assert longer.shape[-1] == plain.shape[-1] + extra
        assert_equal(longer[..., : plain.shape[-1]], plain)
    with pytest.raises(ValueError, match=f"`output_padding` .*use {most} or less"):
        OF.conv_transpose1d(x, weight, bias, stride, 1, most + 1, 1, dilation)


def tf_same_by_loop(x, weight, bias, stride, dilation, *, lower):
    """TensorFlow's SAME transposed in one dimension: the output has s·n positions, the smaller half cropped first."""
    n, (c, o, k) = x.shape[-1], weight.shape
    crop = max(dilation * (k - 1) + 1 - stride, 0)
    before = crop - crop // 2 if lower else crop // 2
    y = np.repeat(bias[:, None], stride * n, axis=1)
    for i, tap, a, b in product(range(n), range(k), range(c), range(o)):
        at = stride * i + dilation * tap - before
        if 0 <= at < stride * n:
            y[b, at] += x[a, i] * weight[a, b, tap]
    return y


@pytest.mark.pitfall(19)
@pytest.mark.parametrize("rule", ["same", "tf_same", "same_lower"])
@pytest.mark.parametrize(("k", "s", "d"), list(product(range(1, 7), range(1, 5), range(1, 4))))
def test_tf_same_by_loop(rule, k, s, d):
    x, weight, bias = whole(2, 4), whole(2, 3, k), whole(3)
    got = OF.conv_transpose1d(x, weight, bias, s, rule, 0, 1, d)
    want = tf_same_by_loop(x.numpy(), weight.numpy(), bias.numpy(), s, d, lower=rule == "same_lower")
    assert_equal(got, torch.from_numpy(want))


@pytest.mark.pitfall(20)
def test_groups_by_loop():
    g, x, weight = 3, whole(1, 6, 4), whole(6, 2, 3)
    want = torch.zeros(1, 6, 9, dtype=torch.float64)
    for c, j, i, k in product(range(6), range(2), range(4), range(3)):
        want[0, c // 2 * 2 + j, 2 * i + k] += x[0, c, i] * weight[c, j, k]
    assert_equal(OF.conv_transpose1d(x, weight, None, 2, 0, 0, g), want)


@pytest.mark.pitfall(20)
@settings(max_examples=60)
@given(gathers(), st.integers(0, 2))
def test_overlap_map_is_what_ones_give(gather, extra):
    extras = tuple(min(extra, max(s, d) - 1) for s, d in zip(gather.stride, gather.dilation, strict=True))
    problem = replace(
        gather, family="transposed", transposed=True, output_padding=extras, padding=((1, 0),) * gather.dim
    )
    ones = torch.ones(1, 1, *gather.in_size, dtype=torch.float64)
    try:
        problem = problem.at(gather.in_size)
    except ValueError:
        return
    kernel = torch.ones(1, 1, *gather.kernel_size, dtype=torch.float64)
    want = CONVS[gather.dim][1](ones, kernel, None, gather.stride, problem.padding, extras, 1, gather.dilation)[0, 0]
    assert_equal(OF.overlap_map(problem).double(), want)


@pytest.mark.pitfall(20)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 4))
@example(3, 2, 1)
@example(4, 2, 1)
@example(4, 2, 2)
def test_overlap_verdict_is_that_of_the_map(k, s, d):
    layer = nn.ConvTranspose1d(1, 1, k, s, dilation=d)
    span = d * (k - 1) + 1
    inside = OF.overlap_map(layer, in_size=3 * span + 4)[span:-span]
    assert OF.overlap_verdict(layer).startswith("even" if len(set(inside.tolist())) == 1 else "uneven")
    assert OF.overlap_verdict(torch.nn.ConvTranspose1d(1, 1, k, s, dilation=d)) == OF.overlap_verdict(layer)


def test_overlap_refuses_what_does_not_overlap():
    with pytest.raises(ValueError, match="must be a transposed convolution"):
        OF.overlap_map(nn.Conv1d(1, 1, 3), 5)
    with pytest.raises(TypeError, match=r"`layer` \(=Linear\)"):
        OF.overlap_verdict(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"`in_size` \(=None\)"):
        OF.overlap_map(nn.ConvTranspose1d(1, 1, 3))


@pytest.mark.pitfall(21)
@settings(max_examples=60)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from((1, 2)),
    st.lists(st.integers(0, 4), min_size=1),
)
def test_any_split_of_a_causal_sequence_gives_the_whole(k, s, d, groups, lengths):
    layer = nn.ConvTranspose1d(2, 4, k, s, "causal", groups=groups, dilation=d, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(whole(*parameter.shape))
    x = whole(3, 2, sum(lengths))
    state, pieces = layer.initial_state(batch=3), []
    for chunk in x.split(lengths, dim=2):
        piece, state = layer.step(chunk, state)
        assert piece.shape == (3, 4, s * chunk.shape[2])
        pieces.append(piece)
    if sum(lengths):
        assert_equal(torch.cat(pieces, dim=2), layer(x))


@pytest.mark.pitfall(21)
def test_a_causal_output_waits_for_no_later_input():
    layer = nn.ConvTranspose1d(2, 3, 7, 3, "causal", dilation=2)
    x = torch.randn(1, 2, 9)
    changed = x.clone()
    changed[..., 5:] += 1
    assert_equal(layer(changed)[..., :15], layer(x)[..., :15])
    assert not torch.equal(layer(changed)[..., 15:18], layer(x)[..., 15:18])
    with pytest.raises(ValueError, match="must be 'causal' to stream"):
        nn.ConvTranspose1d(2, 3, 7, 3).initial_state()
    with pytest.raises(ValueError, match=r"`chunk` shape \(=\(2, 2, 4\)\) must be \(1, 2\) and a length"):
        layer.step(torch.ones(2, 2, 4), layer.initial_state())


@pytest.mark.pitfall(44)
def test_counts():
    problem = ConvProblem.of("transposed", 2, 16, 8, 4, 2, 1, transposed=True, in_size=(8, 8))
    family = families()["transposed"]
    cost, counted = family.cost(problem), count_products(problem)
    assert (cost.params, cost.macs, counted.all_taps, counted.on_data) == (2_048, 131_072, 131_072, 115_200)
    assert cost.notes == ("115,200 of the 131,072 MACs land on outputs that are kept",)


@given(
    i=st.integers(1, 7), k=st.integers(1, 6), s=st.integers(1, 4), d=st.integers(1, 3), extra=st.integers(0, 3),
    before=st.integers(0, 6), after=st.integers(0, 6),
)  # fmt: skip
def test_what_lands_on_kept_outputs_is_counted_without_a_walk(i, k, s, d, extra, before, after):
    whole = (i - 1) * s + d * (k - 1) + 1 + extra
    assume(extra < max(s, d) and before + after < whole)
    padding = ((before, after),)
    problem = ConvProblem.of(
        "transposed", 1, 1, 1, k, s, padding, d, transposed=True, output_padding=extra, in_size=(i,), batch=1
    )
    kept = count_products(problem).on_data
    notes = families()["transposed"].cost(problem).notes
    assert notes == (() if kept == i * k else (f"{kept:,} of the {i * k:,} MACs land on outputs that are kept",))


def test_a_long_sequence_is_counted_at_once():
    problem = ConvProblem.of("transposed", 1, 1, 1, 3, 2, 1, transposed=True, in_size=(10**15,), batch=1)
    (note,) = families()["transposed"].cost(problem).notes
    assert note.startswith("2,999,999,999,999,998 of the 3,000,000,000,000,000")


@pytest.mark.parametrize("n", [8, 9, 56])
@pytest.mark.parametrize(("k", "s"), [(1, 2), (2, 2), (3, 2), (3, 3), (4, 2), (5, 3)])
def test_at_a_stride_it_is_shown_the_other_way(n, k, s):
    _, setting = named_settings()["transposed"]
    position = Position(4, 6, (n, n), (k, k), (s, s), (1, 1))
    nearest, note = setting.nearest(position)
    problem = setting.build(nearest)
    assert problem.in_size == (-(-n // s),) * 2
    assert problem.out_size == (n, n)
    assert f"→ {n}×{n}" in note
    assert setting.nearest(replace(position, stride=(1, 1))) is None
    assert setting.build(replace(position, stride=(1, 1))).out_size == (n, n)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"groups": 3}, "`groups` (=3) must divide `in_channels` (=4)"),
        ({"padding_mode": "reflect"}, "`padding_mode` (='reflect') must be 'zeros'"),
        ({"stride": 2, "output_padding": 2}, "`output_padding` (=2)"),
        ({"padding": "same", "stride": 2, "output_padding": 1}, "must be 0 where `padding` (='same')"),
        ({"padding": "casual"}, "`padding` (='casual')"),
        ({"padding": (1, 2, 3)}, "must have one entry per axis (2)"),
    ],
)
def test_wrong_values_are_named(arguments, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        nn.ConvTranspose2d(4, 4, 3, **arguments)


def test_wrong_inputs_are_named():
    layer = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=(1, 9))
    with pytest.raises(ValueError, match="crops everything"):
        layer(torch.ones(1, 4, 4, 4))
    with pytest.raises(ValueError, match="`input` channels"):
        layer(torch.ones(1, 3, 4, 40))
    with pytest.raises(ValueError, match=r"'same'\) on .*axis 0, which fixes"):
        nn.ConvTranspose1d(1, 1, 4, 2, "same")(torch.ones(1, 1, 4), output_size=(8,))
    with pytest.raises(TypeError, match="`input`"):
        layer([1.0], output_size=(3, 3))


def test_output_size_under_compile():
    layer = nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1)
    compiled = torch.compile(lambda x, size: layer(x, output_size=size), fullgraph=True, dynamic=True, backend="eager")
    for h, w in ((5, 6), (7, 4)):
        x = torch.randn(2, 2, h, w)
        for size in ((2 * h, 2 * w - 1), (2 * h - 1, 2 * w)):
            assert_equal(compiled(x, size), layer(x, output_size=size))
