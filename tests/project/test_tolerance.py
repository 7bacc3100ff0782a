# SPDX-License-Identifier: Apache-2.0
"""The comparison itself, seen red: each kind of wrong answer must be refused."""

from __future__ import annotations

import sys

import pytest
import torch

from tolerance import FACTORS, assert_close, assert_equal, tolerance

WANT = torch.tensor([1.0, -3.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("dtype", FACTORS, ids=str)
def test_accepts_rounding_and_refuses_more(dtype):
    allowed = tolerance(dtype, 4.0, from_terms=True)
    terms = torch.full_like(WANT, 4.0)
    assert_close((WANT + 0.9 * allowed).double(), WANT, terms=terms, dtype=dtype)
    with pytest.raises(AssertionError, match="3 of 3 elements are wrong"):
        assert_close(WANT + 1.1 * allowed, WANT, terms=terms, dtype=dtype)


@pytest.mark.parametrize("dtype", FACTORS, ids=str)
def test_terms_make_it_stricter(dtype):
    assert tolerance(dtype, 1.0, from_terms=True) < tolerance(dtype, 1.0)


def test_one_lost_tap_of_nine_is_refused_in_the_coarsest_dtype():
    products = torch.full((9,), 0.7, dtype=torch.float64)
    assert_close(products.sum().to(torch.bfloat16), products.sum(), terms=products.sum())
    with pytest.raises(AssertionError):
        assert_close(products[1:].sum().to(torch.bfloat16), products.sum(), terms=products.sum())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(bad):
    with pytest.raises(AssertionError, match=r"1 of 3 elements are wrong.*\(1,\)"):
        assert_close(torch.tensor([1.0, bad, 2.0]), WANT)


def test_refuses_expected_values_that_prove_nothing():
    with pytest.raises(AssertionError, match="not finite"):
        assert_close(WANT, WANT * torch.nan)


def test_refuses_another_shape_even_where_it_broadcasts():
    with pytest.raises(AssertionError, match="shape"):
        assert_close(WANT, WANT[None])
    with pytest.raises(AssertionError, match="shape"):
        assert_equal(WANT[:1].expand(3), WANT[:1])


def test_refuses_terms_that_are_no_sum_of_products():
    with pytest.raises(AssertionError, match="less than"):
        assert_close(WANT, WANT, terms=WANT.abs() / 2)


def test_exact_comparison():
    assert_equal(torch.tensor([1, -3, 2]), WANT)
    with pytest.raises(AssertionError, match="allowed 0"):
        assert_equal(torch.nextafter(WANT, 2 * WANT), WANT)
    with pytest.raises(AssertionError):
        assert_equal(torch.tensor([2**53 + 1]), torch.tensor([2**53]))


@pytest.mark.skipif(sys.platform != "linux", reason="the C library's own memory is perturbed by glibc only")
@pytest.mark.usefixtures("poisoned_memory")
def test_fresh_memory_is_poisoned():
    assert torch.empty(8).isnan().all()
    assert torch.ones(3, 2).new_empty(2).isnan().all()
    torch.utils.deterministic.fill_uninitialized_memory = False  # as where a compiled library asks for memory
    for size in (3, 300, 300_000):
        assert (torch.empty(size) > 3e38).all()
        assert (torch.empty(size, dtype=torch.bfloat16) > 3e38).all()


def test_one_thread():
    assert torch.get_num_threads() == 1
