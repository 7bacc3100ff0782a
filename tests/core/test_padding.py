# SPDX-License-Identifier: Apache-2.0
"""How ``padding`` is read, what each rule adds or crops, and what is said where it is wrong."""

from __future__ import annotations

import re
from itertools import product
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniconv.core.padding import RULES, crop_pair, gather_pair, parse_padding

AXIS = list(product(range(1, 8), range(1, 5), range(1, 4)))


@pytest.mark.parametrize(
    ("value", "dim", "pairs"),
    [
        (2, 1, ((2, 2),)),
        (2, 3, ((2, 2),) * 3),
        ((1, 2), 2, ((1, 1), (2, 2))),
        ([1, 2], 2, ((1, 1), (2, 2))),
        ((3,), 3, ((3, 3),) * 3),
        (((1, 2),), 1, ((1, 2),)),
        (((0, 2), (1, 0)), 2, ((0, 2), (1, 0))),
        ([[0, 2], 1], 2, ((0, 2), (1, 1))),
        (((1, 2), "same", 0), 3, ((1, 2), "same", (0, 0))),
        ("tf_same", 2, ("tf_same",) * 2),
        ("causal", 1, ("causal",)),
        (("causal", "same"), 2, ("causal", "same")),
        (("valid",), 1, ("valid",)),
    ],
)
def test_read(value, dim, pairs):
    assert parse_padding(value, dim) == pairs


@pytest.mark.parametrize(
    ("value", "dim", "error", "text"),
    [
        (-1, 2, ValueError, "`padding` (=-1) must be at least 0; use 0 or more."),
        ((1, -2), 2, ValueError, "`padding` (=-2) must be at least 0; use 0 or more."),
        (((1, -2),), 1, ValueError, "`padding` (=-2) must be at least 0; use 0 or more."),
        ((1, 2), 1, ValueError, "must have one entry per axis (1); per-side amounts are nested, as ((1, 2),)."),
        ((1, 2, 3, 4), 2, ValueError, "`padding` (=(1, 2, 3, 4)) must have one entry per axis (2)"),
        (
            ((1, 2),),
            2,
            ValueError,
            "must have one entry per axis (2); per-side amounts are nested, as ((1, 1), (1, 1)).",
        ),
        ((), 1, ValueError, "`padding` (=()) must have one entry per axis (1)"),
        (((1, 2, 3),), 1, ValueError, "`padding` entry (=(1, 2, 3)) must be a pair (before, after); use two amounts."),
        ("SAME", 1, ValueError, "(='SAME') must be a number or a known rule; use one of valid, same, same_lower,"),
        (("same", "full"), 2, ValueError, "`padding` (='full') must be a number or a known rule"),
        ("causal", 3, ValueError, "name one rule per axis, as ('causal', 'same', 'same')."),
        (1.0, 1, TypeError, "`padding` (=1.0) must be an integer, a rule or one entry per axis."),
        (None, 2, TypeError, "`padding` (=None) must be an integer, a rule or one entry per axis."),
        (True, 1, TypeError, "`padding` (=True) must be an integer, not bool."),
        ((1, 0.5), 2, TypeError, "`padding` entry (=0.5) must be an integer, a pair or a rule."),
        (((1, 0.5),), 1, TypeError, "`padding` (=0.5) must be an integer, not float."),
        ({1, 2}, 2, TypeError, "`padding` (={1, 2}) must be an integer, not set."),
    ],
)
def test_what_cannot_be_read_says_why(value, dim, error, text):
    with pytest.raises(error, match=re.escape(text)):
        parse_padding(value, dim)


@pytest.mark.pitfall(12, 13)
@pytest.mark.parametrize(("k", "s", "d"), AXIS)
def test_a_rule_adds_the_least_that_gives_its_number_of_windows(k, s, d):
    span = d * (k - 1) + 1
    for n in range(1, 21):
        for rule in ("tf_same", "same_lower"):
            before, after = gather_pair(rule, n, k, s, d)
            assert min(before, after) >= 0
            assert (n + before + after - span) // s + 1 == ceil(n / s)
            assert 0 <= (after - before if rule == "tf_same" else before - after) <= 1
            windows = (n + before + after - 1 - span) // s + 1 if n + before + after > span else 0
            assert before + after == 0 or windows < ceil(n / s), "one less would have done"
        assert gather_pair("causal", n, k, s, d) == (span - 1, 0)
        assert gather_pair("valid", n, k, s, d) == (0, 0)
    assert gather_pair("same", None, k, 1, d) == gather_pair("tf_same", None, k, 1, d)
    assert gather_pair("same_lower", None, k, 1, d) == gather_pair("same", None, k, 1, d)[::-1]
    assert (gather_pair("tf_same", None, k, s, d) is None) == (s > 1)


@pytest.mark.pitfall(19)
@pytest.mark.parametrize(("k", "s", "d"), AXIS)
def test_a_transposed_rule_crops_or_appends_to_a_multiple_of_the_stride(k, s, d):
    span = d * (k - 1) + 1
    for rule in RULES:
        (before, after), appended = crop_pair(rule, k, s, d)
        if rule == "valid":
            assert (before, after, appended) == (0, 0, 0)
            continue
        for n in range(1, 6):
            assert (n - 1) * s + span + appended - before - after == s * n
        assert appended == 0 or before == after == 0
        uneven = {"causal": after, "same_lower": before - after}.get(rule, after - before)
        assert 0 <= uneven <= (max(span - s, 0) if rule == "causal" else 1)
        assert rule != "causal" or before == 0


@given(st.tuples(st.integers(0, 9), st.integers(0, 9)), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_pair_is_what_it_says(pair, k, s, d):
    assert gather_pair(pair, None, k, s, d) == gather_pair(pair, 5, k, s, d) == pair
    assert crop_pair(pair, k, s, d) == (pair, 0)
