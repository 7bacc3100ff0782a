# SPDX-License-Identifier: Apache-2.0
"""Every padding rule against a loop in plain Python, every mode against NumPy, and exports that stay open."""

from __future__ import annotations

import re
from itertools import product
from math import ceil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.export import Dim, export

import omniconv.functional as OF
from omniconv import nn
from omniconv.core.problem import ConvProblem
from tolerance import assert_close, assert_equal

NUMPYS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
X = [(7 * i * i + 3 * i) % 11 - 5 for i in range(40)]
W = [2, -3, 5, -7, 11, -13, 17]


def read(x, at):
    return x[at] if 0 <= at < len(x) else 0


def first_window(rule, n, k, s, d):
    """(first input position of the first window, number of windows) by each library's own words."""
    reach = d * (k - 1)
    if rule == "valid":
        return 0, len(range(0, n - reach, s))
    if rule == "causal":
        return -reach, len(range(0, n, s))
    if rule == "same":
        return -(reach // 2), n
    outs = ceil(n / s)
    missing = 0
    while s * (outs - 1) + reach >= n + missing:
        missing += 1
    return -(missing // 2) if rule == "tf_same" else -((missing + 1) // 2), outs


@pytest.mark.pitfall(12, 13, 34)
@pytest.mark.parametrize("rule", ["valid", "same", "same_lower", "tf_same", "causal"])
@pytest.mark.parametrize(("s", "d"), list(product(range(1, 5), range(1, 4))))
def test_rule_by_loop(rule, s, d):
    if rule == "same" and s > 1:
        with pytest.raises(ValueError, match="use 'tf_same', which allows any stride"):
            OF.conv1d(torch.ones(1, 1, 9), torch.ones(1, 1, 3), None, s, rule, d)
        return
    for n, k in product(range(1, 21), range(1, 8)):
        start, outs = first_window(rule, n, k, s, d)
        x, weight = torch.tensor([[X[:n]]]).double(), torch.tensor([[W[:k]]]).double()
        if not outs:
            with pytest.raises(ValueError, match=f"too small for a kernel that spans {d * (k - 1) + 1} with"):
                OF.conv1d(x, weight, None, s, rule, d)
            continue
        want = [sum(W[j] * read(X[:n], start + s * p + d * j) for j in range(k)) for p in range(outs)]
        got = OF.conv1d(x, weight, None, s, rule, d)
        assert got.tolist() == [[want]], (n, k)


@pytest.mark.pitfall(12)
def test_the_rules_part_where_the_literature_says():
    def pads(padding, n, k=3, s=2):
        return ConvProblem.of("conv", 1, 1, 1, k, s, padding).pads((n,))[0]

    assert [pads(p, 8) for p in (1, "tf_same", "same_lower")] == [(1, 1), (0, 1), (1, 0)]
    assert [pads(p, 7) for p in (1, "tf_same", "same_lower")] == [(1, 1), (1, 1), (1, 1)]
    assert [pads(p, 8, 4, 1) for p in ("same", "tf_same", "same_lower")] == [(1, 2), (1, 2), (2, 1)]


@pytest.mark.pitfall(13)
@pytest.mark.parametrize("rule", ["tf_same", "same_lower"])
def test_a_stride_past_the_kernel_skips_the_tail_and_crops_nothing(rule):
    problem = ConvProblem.of("conv", 1, 1, 1, 2, 4, rule)
    assert [problem.pads((n,))[0] for n in (10, 11, 12)] == [(0, 0)] * 3
    assert [problem.at((n,)).out_size[0] for n in (10, 11, 12)] == [3] * 3
    x, weight = torch.arange(12.0).view(1, 1, 12), torch.tensor([[[1.0, 100.0]]])
    assert OF.conv1d(x, weight, None, 4, rule).tolist() == [[[100.0, 504.0, 908.0]]]


@pytest.mark.pitfall(34)
@pytest.mark.parametrize(("n", "k", "s", "d"), [(12, 3, 2, 1), (12, 4, 3, 2), (9, 5, 2, 3), (7, 2, 1, 4)])
def test_both_strided_causal_conventions_have_a_name(n, k, s, d):
    x, weight, reach = torch.tensor([[X[:n]]]).double(), torch.tensor([[W[:k]]]).double(), d * (k - 1)
    of_keras = OF.conv1d(x, weight, None, s, "causal", d)
    assert of_keras.tolist() == [
        [[sum(W[j] * read(X[:n], s * p - reach + d * j) for j in range(k)) for p in range(ceil(n / s))]]
    ]
    aligned = OF.conv1d(x, weight, None, s, ((reach + 1 - s, s - 1),), d)
    last = [s - 1 + s * p for p in range(aligned.shape[2])]
    assert aligned.tolist() == [[[sum(W[j] * read(X[:n], t - reach + d * j) for j in range(k)) for t in last]]]


@pytest.mark.pitfall(15)
@pytest.mark.parametrize("rule", ["tf_same", "same_lower", "valid"])
@pytest.mark.parametrize(("strides", "dilations"), [((2, 1), (1, 1)), ((1, 3), (2, 1)), ((2, 3), (3, 2))])
def test_depthwise_with_unequal_strides_and_dilation_by_loop(rule, strides, dilations):
    x, weight = np.array(X[:35] * 2).reshape(2, 5, 7), np.array(W[:6] * 4).reshape(4, 1, 3, 2)
    windows = [first_window(rule, n, k, s, d) for n, k, s, d in zip((5, 7), (3, 2), strides, dilations, strict=True)]
    if 0 in (outs for _, outs in windows):
        return
    want = np.zeros((4, *(outs for _, outs in windows)))
    for o, i, j in np.ndindex(want.shape):
        for a, b in product(range(3), range(2)):
            row = windows[0][0] + strides[0] * i + dilations[0] * a
            column = windows[1][0] + strides[1] * j + dilations[1] * b
            if 0 <= row < 5 and 0 <= column < 7:
                want[o, i, j] += weight[o, 0, a, b] * x[o // 2, row, column]
    layer = nn.DepthwiseConv2d(2, (3, 2), strides, rule, dilations, bias=False, multiplier=2).double()
    layer.load_state_dict({"weight": torch.from_numpy(weight).double()})
    assert_equal(layer(torch.from_numpy(x).double()[None])[0], torch.from_numpy(want))


def padded_by_numpy(x, pairs, mode):
    return torch.from_numpy(np.pad(x.numpy(), [(0, 0), (0, 0), *pairs], mode=NUMPYS[mode]))


@pytest.mark.pitfall(14)
@given(st.data(), st.sampled_from(sorted(NUMPYS)), st.integers(1, 3))
def test_uneven_pads_in_every_mode(data, mode, dim):
    size = tuple(data.draw(st.integers(1, 6)) for _ in range(dim))
    most = {"reflect": lambda n: n - 1, "circular": lambda n: n}.get(mode, lambda n: 2 * n + 1)
    pairs = tuple((data.draw(st.integers(0, most(n))), data.draw(st.integers(0, most(n)))) for n in size)
    kernel = tuple(min(n + sum(pair), 3) for n, pair in zip(size, pairs, strict=True))
    x = torch.randint(-3, 4, (2, 2, *size)).double()
    weight = torch.randint(-3, 4, (3, 2, *kernel)).double()
    conv = (OF.conv1d, OF.conv2d, OF.conv3d)[dim - 1]
    wide = padded_by_numpy(x, pairs, mode)
    assert_equal(conv(x, weight, None, 2, pairs, padding_mode=mode), conv(wide, weight, None, 2))


@pytest.mark.pitfall(14)
@pytest.mark.parametrize("rule", ["same", "same_lower", "tf_same", "causal"])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_rules_fill_what_they_add_in_every_mode(rule, mode):
    x, weight = torch.tensor([[X[:9]]]).double(), torch.tensor([[W[:4]]]).double()
    s = 1 if rule == "same" else 3
    start, outs = first_window(rule, 9, 4, s, 2)
    after = max(s * (outs - 1) + 7 + start - 9, 0)
    wide = padded_by_numpy(x, [(-start, after)], mode)
    got = OF.conv1d(x, weight, None, s, rule, 2, padding_mode=mode)
    assert_equal(got, OF.conv1d(wide, weight, None, s, 0, 2)[..., :outs])


@pytest.mark.pitfall(14)
@pytest.mark.parametrize(("mode", "legal"), [("reflect", 3), ("circular", 4)])
@pytest.mark.parametrize("side", [0, 1])
def test_a_pad_past_its_mode_names_the_most_that_is_legal(mode, legal, side):
    x, weight = torch.ones(1, 1, 4), torch.ones(1, 1, 1)

    def padded(amount):
        pair = (amount, 0) if side == 0 else (0, amount)
        return OF.conv1d(x, weight, padding=(pair,), padding_mode=mode)

    assert padded(legal).shape[2] == 4 + legal
    text = (
        f"`padding` (={legal + 1}) on spatial axis 0 is too large for `padding_mode` (='{mode}') and an input of size 4"
    )
    with pytest.raises(ValueError, match=re.escape(f"{text}; use {legal} or less.")):
        padded(legal + 1)


def test_pads_are_read_alike_however_they_are_written():
    x, weight = torch.randn(1, 2, 6, 7), torch.randn(3, 2, 3, 3)
    same = [1, (1, 1), [1, 1], ((1, 1), 1), ((1, 1), (1, 1)), "same", ("same", 1), ("tf_same", (1, 1)), (1,)]
    first = OF.conv2d(x, weight, padding=same[0])
    for padding in same[1:]:
        assert_equal(OF.conv2d(x, weight, padding=padding), first)
    cropped = OF.conv2d(x, weight, padding=((1, 0), (0, 1)))
    assert_equal(cropped, first[..., :-1, 1:])
    assert_equal(OF.conv2d(x, weight, padding=(("causal"), "valid"))[..., 2:, :], OF.conv2d(x, weight))


@pytest.mark.pitfall(16)
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_an_export_keeps_the_padding_open(mode):
    layer = nn.Conv2d(2, 3, (3, 4), (2, 3), "tf_same", padding_mode=mode).eval()
    sizes = {2: Dim("h", min=7, max=64), 3: Dim("w", min=7, max=64)}
    exported = export(layer, (torch.randn(1, 2, 8, 9),), dynamic_shapes={"input": sizes}).module()
    added = set()
    for size in product((7, 8, 9, 10), (10, 11, 12, 13)):
        x = torch.randn(1, 2, *size)
        added.add(layer.problem.pads(size))
        assert_close(exported(x), layer(x))
    assert len(added) == 6
