# SPDX-License-Identifier: Apache-2.0
"""The algebra of repeating intervals, against the same things done index by index."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
import pytest
from hypothesis import given

from omniconv.analysis.field import reads
from omniconv.analysis.field.interval import IntervalMap, StridesDifferError, TooManyPhasesError, hull, join
from omniconv.analysis.field.reads import Reads

WHERE = range(-25, 26)

phases = st.one_of(st.none(), st.tuples(st.integers(-9, 9), st.integers(0, 5)).map(lambda p: (p[0], p[0] + p[1])))
maps = st.builds(IntervalMap, st.integers(-4, 4), st.lists(phases, min_size=1, max_size=5).map(tuple))
taps = st.builds(
    lambda first, count, gap: range(first, first + count * gap, gap),
    st.integers(-7, 7),
    st.integers(0, 9),
    st.integers(1, 4),
)
steps = st.builds(Reads, st.integers(-4, 4), st.lists(taps, min_size=1, max_size=4).map(tuple))


@given(maps, steps)
def test_through_is_the_hull_over_the_taps(intervals, step):
    after = intervals.through(step)
    assert [after(j) for j in WHERE] == [hull(intervals(i) for i in step(j)) for j in WHERE]


@pytest.mark.pitfall(46)
@given(maps, maps)
def test_hull_holds_both_and_no_more(one, two):
    if any(one.phases) and any(two.phases) and one.stride != two.stride:
        with pytest.raises(StridesDifferError, match=f"stride {one.stride} and {two.stride}"):
            one.hull(two)
    else:
        both = one.hull(two)
        assert [both(j) for j in WHERE] == [hull((one(j), two(j))) for j in WHERE]


@given(maps)
def test_periods_are_shortest(intervals):
    same = intervals.through(reads.point(0))
    assert [same(j) for j in WHERE] == [intervals(j) for j in WHERE]
    shorter = [q for q in range(1, same.period) if all(_shifted(same, j, q) == same(j + q) for j in WHERE)]
    assert not shorter


def _shifted(intervals, index, by):
    shift, interval = intervals.stride * by, intervals(index)
    return interval and (interval[0] + shift, interval[1] + shift)


@pytest.mark.pitfall(46)
@pytest.mark.parametrize("k", range(1, 6))
@pytest.mark.parametrize("s", range(1, 5))
@pytest.mark.parametrize("d", range(1, 4))
@pytest.mark.parametrize("p", range(3))
def test_transposed_reads_those_that_write_it(k, s, d, p):
    step = reads.transposed(k, s, d, p)
    for j in WHERE:
        assert list(step(j)) == [i for i in range(-60, 60) if any(s * i + d * n - p == j for n in range(k))]
        assert all(j in range(s * i - p, s * i - p + d * (k - 1) + 1, d) for i in step(j))


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("out", range(1, 12))
def test_adaptive(size, out):
    step = reads.adaptive(size, out)
    for j in range(out):
        assert step(j) == range(j * size // out, -(-(j + 1) * size // out))


def test_sizes_stride_and_start():
    up = IntervalMap.identity().through(reads.window(3, 2, 2, 1)).through(reads.transposed(3, 3))
    assert (up.stride, up.sizes, up.size) == (Fraction(2, 3), (5, 5, 5), 5)
    gaps = IntervalMap.identity().through(reads.transposed(1, 2))
    assert (gaps.sizes, gaps(0), gaps(1)) == ((1, 0), (0, 0), None)
    assert IntervalMap.identity().through(reads.point(9, -1))(2) == (7, 7)


def test_unequal_sizes_are_held_and_misalignment_is_not():
    whole, resized = IntervalMap.identity(), IntervalMap(2, ((0, 0),)).through(reads.nearest(Fraction(33, 65)))
    joined, bound = join(whole, resized, 65)
    assert bound
    assert joined.stride == 1
    assert all(joined(j)[0] <= min(whole(j)[0], resized(j)[0]) for j in range(65))
    assert all(joined(j)[1] >= max(whole(j)[1], resized(j)[1]) for j in range(65))
    assert joined.size <= 3
    with pytest.raises(StridesDifferError):
        join(whole, IntervalMap(2, ((0, 0),)), 65)


def test_irregular_sizes_end():
    intervals = IntervalMap.identity().through(reads.nearest(Fraction(1, 5003)))
    with pytest.raises(TooManyPhasesError):
        intervals.through(reads.nearest(Fraction(4999, 5009)))


@pytest.mark.parametrize(("size", "out"), [(8, 16), (16, 8), (5, 9), (9, 4), (1, 7), (7, 1), (6, 6)])
def test_aligned_corners_are_held(size, out):
    step = reads.corners(size, out, 1)
    for j in range(out):
        place = Fraction(j * (size - 1), max(out - 1, 1))
        assert step(j).start <= place <= step(j).stop - 1
    assert Fraction(step.jump, step.period) == Fraction(size, out)
