# SPDX-License-Identifier: Apache-2.0
"""``ConvProblem``: arguments become numbers, sizes follow the formula, and a wrong one names the nearest legal."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from omniconv.core.problem import ConvProblem


def conv(*arguments, dim=2, **named):
    return ConvProblem.of("conv", dim, *arguments, **named)


def transposed(*arguments, dim=2, **named):
    return ConvProblem.of("transposed", dim, *arguments, transposed=True, **named)


def test_one_number_stands_for_every_axis():
    problem = conv(4, 8, 3, 2, 1, (1, 2), 4, bias=True, in_size=(9, 8), batch=5)
    assert problem == conv(4, 8, (3, 3), [2], (1, (1, 1)), [1, 2], 4, bias=True, in_size=[9, 8], batch=5)
    assert (problem.kernel_size, problem.stride, problem.padding) == ((3, 3), (2, 2), ((1, 1), (1, 1)))
    assert (problem.dim, problem.span, problem.out_size) == (2, (3, 5), (5, 3))
    assert hash(problem) == hash(dataclasses.replace(problem))
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.groups = 2


def test_integers_of_other_makes_are_integers():
    problem = conv(np.int64(4), torch.tensor(8), np.array(3, dtype=np.int8), torch.Size((2, 1)), np.uint8(1))
    assert problem == conv(4, 8, 3, (2, 1), 1)
    assert all(type(n) is int for n in (problem.in_channels, problem.out_channels, *problem.kernel_size))


def test_special_numbers_are_read_by_name():
    problem = conv(2, 2, 3, heads=4, form="softmax")
    assert (problem["heads"], problem.number("heads"), problem["form"]) == (4, 4, "softmax")
    assert problem == conv(2, 2, 3, form="softmax", heads=4)
    with pytest.raises(KeyError, match="'rank' is not special to family 'conv'"):
        problem["rank"]
    with pytest.raises(TypeError, match=re.escape("`form` (='softmax') must be an integer.")):
        problem.number("form")


@settings(max_examples=200)
@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.tuples(*[st.integers(0, 4)] * 2))
def test_out_size_is_what_torch_makes_and_the_least_input_is_named(n, k, s, d, pair):
    problem = conv(1, 1, k, s, (pair,), d, dim=1)
    padded = F.pad(torch.ones(1, 1, n), pair)
    if padded.shape[2] < problem.span[0]:
        with pytest.raises(ValueError, match=f"spans {problem.span[0]} with padding .*; use (\\d+) or more") as caught:
            problem.at((n,))
        least = int(re.search(r"use (\d+) or more", str(caught.value))[1])
        assert problem.at((least,)).out_size == (1,)
        if least > 1:
            with pytest.raises(ValueError, match="too small"):
                problem.at((least - 1,))
        return
    want = F.conv1d(padded, torch.ones(1, 1, k), None, s, 0, d).shape[2]
    assert problem.at((n,)).out_size == problem.out_size_of((n,)) == (want,)


@settings(max_examples=200)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 8), st.integers(0, 3))
def test_scattered_size_is_what_torch_makes_and_the_most_crop_is_named(n, k, s, d, crop, extra):
    if extra >= max(s, d):
        with pytest.raises(ValueError, match=f"use {max(s, d) - 1} or less"):
            transposed(1, 1, k, s, crop, d, dim=1, output_padding=extra)
        return
    problem = transposed(1, 1, k, s, crop, d, dim=1, output_padding=extra)
    full = (n - 1) * s + problem.span[0] + extra
    if full <= 2 * crop:
        with pytest.raises(ValueError, match=f"use a total of {full - 1} or less"):
            problem.at((n,))
        return
    want = F.conv_transpose1d(torch.ones(1, 1, n), torch.ones(1, 1, k), None, s, crop, extra, 1, d)
    assert problem.at((n,)).out_size == tuple(want.shape[2:])


def test_a_size_is_needed_only_where_a_rule_asks_for_it():
    assert conv(1, 1, 3, 1, "tf_same").fixed_pads
    strided = conv(1, 1, 3, 2, ("same_lower", 1))
    assert not strided.fixed_pads
    assert strided.pads((8, 8)) == strided.at((8, 8)).pads() == ((1, 0), (1, 1))
    with pytest.raises(ValueError, match=re.escape("`padding` (='same_lower') depends on the input size")):
        strided.pads()
    with pytest.raises(ValueError, match=re.escape("`in_size` (=None) must be known for an output size; use at(")):
        _ = conv(1, 1, 3).out_size
    assert transposed(1, 1, 3, 2, "tf_same").fixed_pads


def test_at_gives_size_and_batch():
    problem = conv(1, 1, 3)
    assert (problem.in_size, problem.batch) == (None, None)
    assert (problem.at((5, 6)).in_size, problem.at((5, 6)).batch) == ((5, 6), 1)
    assert problem.at((5, 6), 0).batch == 0
    assert problem.at((5, 6), None).batch == 1
    for size, text in [((5,), "(=(5,)) must have one value per axis (2)"), ((5, 0), "(=0) on spatial axis 1")]:
        with pytest.raises(ValueError, match=re.escape(text)):
            problem.at(size)
    with pytest.raises(ValueError, match=re.escape("`batch` (=-1) must be at least 0; use 0 or more.")):
        problem.at((5, 6), -1)


@pytest.mark.pitfall(18)
@settings(max_examples=80)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_output_padding_for_reaches_exactly_the_named_range(n, k, s, d, crop):
    problem = transposed(1, 1, k, s, crop, d, dim=1)
    try:
        least = problem.at((n,)).out_size[0]
    except ValueError:
        return
    for wanted in range(1, least + max(s, d) + 2):
        extra = wanted - least
        if 0 <= extra < max(s, d):
            assert problem.output_padding_for((n,), wanted) == (extra,)
        else:
            with pytest.raises(ValueError, match=re.escape(f"use ({least},) (output_padding=0) to")):
                problem.output_padding_for((n,), (wanted,))


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: conv(8, 8, 3, groups=5), "`groups` (=5) must divide `in_channels` (=8); use 1, 2, 4 or 8."),
        (lambda: conv(64, 96, 3, groups=24), "must divide `in_channels` (=64); use 1, 2, 4, 8, 16 or 32."),
        (lambda: conv(7, 3, 3, groups=2), "`groups` (=2) must divide `in_channels` (=7); use 1."),
        (lambda: conv(0, 8, 3), "`in_channels` (=0) must be at least 1; use 1 or more."),
        (lambda: conv(8, -8, 3), "`out_channels` (=-8) must be at least 1; use 1 or more."),
        (lambda: conv(1, 1, (3, 0)), "`kernel_size` (=0) must be at least 1; use 1 or more."),
        (lambda: conv(1, 1, (3,) * 3), "`kernel_size` (=(3, 3, 3)) must have one value per axis (2); use (3, 3)."),
        (lambda: conv(1, 1, (), dim=1), "`kernel_size` (=()) must have one value per axis (1); use (1,)."),
        (lambda: conv(1, 1, (3, 5), dim=3), "`kernel_size` (=(3, 5)) must have one value per axis (3); use (3, 5, 5)."),
        (lambda: conv(1, 1, 3, 2, ("causal", "same")), "needs `stride` (=2) to be 1, as in torch; use 'tf_same'"),
        (lambda: transposed(1, 1, 3, padding_mode="circular"), "must be 'zeros' for a transposed convolution;"),
        (lambda: transposed(1, 1, 3, 2, output_padding=2), "`output_padding` (=2) must be smaller than `stride` (=2)"),
        (lambda: transposed(1, 1, 3, output_padding=1), "use 0 or less."),
        (lambda: transposed(1, 1, 3, 2, "same", output_padding=1), "use 0, or a number for `padding`."),
        (lambda: transposed(1, 1, 3, 2, 3).at((1, 1)), "crops everything that an `input` of size (=1) on"),
        (lambda: conv(1, 1, 3, padding=4, padding_mode="reflect").at((4, 9)), "input of size 4; use 3 or less."),
    ],
)
def test_wrong_values_name_the_nearest_legal(build, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        build()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: conv(1.0, 1, 3), "`in_channels` (=1.0) must be an integer, not float."),
        (lambda: conv(1, None, 3), "`out_channels` (=None) must be an integer, not NoneType."),
        (lambda: conv(1, 1, "3"), "`kernel_size` (='3') must be an integer or 2 of them, not str."),
        (lambda: conv(1, 1, None), "`kernel_size` (=None) must be an integer or 2 of them, not NoneType."),
        (lambda: conv(1, 1, (3, 3.0)), "`kernel_size` (=3.0) must be an integer, not float."),
        (lambda: conv(1, 1, 3, 2.0), "`stride` (=2.0) must be an integer or 2 of them, not float."),
        (lambda: conv(1, 1, 3, dilation=True), "`dilation` (=True) must be an integer, not bool."),
        (lambda: conv(1, 1, 3, groups=True), "`groups` (=True) must be an integer, not bool."),
        (lambda: conv(1, 1, 3, bias=None), "`bias` (=None) must be True or False, not NoneType."),
        (lambda: conv(1, 1, 3, padding_mode=0), "`padding_mode` (=0) must be a string, not int; use 'zeros',"),
        (lambda: conv(1, 1, 3, in_size=(8, 8.5)), "`in_size` (=8.5) must be an integer, not float."),
        (lambda: conv(1, 1, 3).at((8, 8), 1.0), "`batch` (=1.0) must be an integer, not float."),
    ],
)
def test_wrong_types_are_named(build, text):
    with pytest.raises(TypeError, match=re.escape(text)):
        build()


def test_it_imports_no_torch():
    script = (
        "import sys; import omniconv.core.cost, omniconv.core.choose, omniconv.core.taps; "
        "from omniconv.core.problem import ConvProblem; "
        "print(ConvProblem.parse('conv:c1_o2_i4_k3').out_size); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "(2,)\n"
