# SPDX-License-Identifier: Apache-2.0
"""Results in memory that is kept between calls: no two that are needed at the same time overlap."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import omniconv
from omniconv.core.lending import LINE, Storages, leased, needed
from omniconv.core.replay import Recording, Replay

SPANS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 8), st.integers(1, 5000)), max_size=30)


@settings(deadline=None, max_examples=200)
@given(SPANS)
def test_what_is_needed_together_lies_apart(spans):
    sizes = {number: (first, first + more, size) for number, (first, more, size) in enumerate(spans)}
    found, whole = leased(sizes)
    assert found.keys() == sizes.keys()
    for one, (first, last, size) in sizes.items():
        assert found[one].bytes == size
        assert found[one].at % LINE == 0
        assert found[one].at + size <= whole
        for other, (begin, end, _) in sizes.items():
            if one < other and begin <= last and first <= end:
                mine, its = found[one], found[other]
                assert mine.at + mine.bytes <= its.at or its.at + its.bytes <= mine.at


def test_a_chain_takes_two_places():
    found, whole = leased({at: (at, at + 1, 1000) for at in range(10)})
    assert whole == 2048
    assert {lease.at for lease in found.values()} == {0, 1024}


def test_the_last_call_that_needs_a_memory():
    assert needed([[0, 1], [1, 2], [3]], {0: 7, 1: 8, 2: 8, 3: 9}, {9}) == {7: 0, 8: 1}


def test_views_share_a_number_and_freed_memory_gives_it_back():
    storages = Storages()
    one, other = torch.zeros(4), torch.zeros(4)
    first = storages.number_of(one)
    assert storages.number_of(one[1:]) == first
    assert storages.number_of(other) == first + 1
    view = one[2:]
    assert storages.number_of(view) == first
    del one
    assert storages.number_of(view[:1]) == first
    key = view.untyped_storage()._cdata
    del view
    assert key not in storages._number


@pytest.mark.skipif(not hasattr(torch.ops.omniconv, "replay"), reason="needs the compiled library")
def test_results_of_this_library_lie_in_kept_memory_and_outputs_do_not():
    torch.manual_seed(0)
    layers = [
        omniconv.nn.PointwiseConv2d(8, 8, activation=torch.nn.ReLU).eval().requires_grad_(False) for _ in range(6)
    ]

    def function(x):
        between = []
        for layer in layers:
            x = layer(x)
            between.append(x[:, :4])
        return x, between[0] + 1

    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        for _ in range(3):
            function(x)
        with Recording([x]) as recording:
            found = function(x)
        replay = Replay(recording, found)
        assert replay._room > 0
        assert len(replay._leases) == 5  # all but the last, which is returned
        results = [replay([torch.randn(1, 8, 6, 6)]) for _ in range(2)]
        kept = [one.clone() for one in results[0]]
        others = [replay([torch.randn(1, 8, 6, 6)]) for _ in range(4)]
        assert all(torch.equal(one, other) for one, other in zip(results[0], kept, strict=True))
        assert len({result[0].data_ptr() for result in (*results, *others)}) == 6
        y = torch.randn(1, 8, 6, 6)
        assert all(torch.equal(one, other) for one, other in zip(replay([y]), function(y), strict=True))
