# SPDX-License-Identifier: Apache-2.0
"""The one table of tolerances: an error may be c · eps(dtype) · magnitude, and c stands here.

The magnitude of an output is best known from its own sum: Σ|w·x| over the products that make it (pass it as `terms`).
Rounding errors are a small multiple of that, whatever cancels. Without `terms` the magnitude is the largest expected
value of the tensor, which cancellation may have made small, so c is larger.
"""

from __future__ import annotations

import torch

#        dtype: c with `terms`, c without
FACTORS = {
    torch.float64: (8, 128),
    torch.float32: (8, 128),
    torch.bfloat16: (3, 8),
    torch.float16: (3, 8),
}


def tolerance(dtype, magnitude, *, from_terms=False):
    """The largest error that rounding in `dtype` explains at this magnitude, in float64."""
    dtype = dtype.to_real() if dtype.is_complex else dtype
    return FACTORS[dtype][0 if from_terms else 1] * torch.finfo(dtype).eps * magnitude


def assert_close(actual, expected, *, terms=None, dtype=None):
    """Fail unless `actual` equals `expected` up to rounding.

    Args:
        actual: What was computed; its dtype chooses the row of the table.
        expected: The right values, best in float64.
        terms: Σ|products| of each output, of `expected`'s shape.
        dtype: The dtype that was computed in, where `actual` is stored in a wider one.
    """
    __tracebackhide__ = True
    dtype = dtype or actual.dtype
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if not dtype.is_floating_point and not dtype.is_complex:
        assert not expected.is_floating_point(), f"{dtype} computed where {expected.dtype} is expected"
        return assert_equal(actual, expected)
    if expected.numel() == 0:
        return None
    wide = torch.complex128 if expected.is_complex() else torch.float64
    got, want = actual.detach().to("cpu", wide), expected.detach().to("cpu", wide)
    assert bool(want.isfinite().all()), "the expected values are not finite: nothing could be compared"
    if terms is None:
        magnitude = want.abs().max().expand(want.shape)
    else:
        assert terms.shape == expected.shape, f"`terms` has shape {tuple(terms.shape)}, not {tuple(expected.shape)}"
        magnitude = terms.detach().to("cpu", torch.float64)
        assert bool((magnitude >= want.abs() * (1 - 1e-9)).all()), "`terms` is less than |expected|: not Σ|products|"
    allowed = tolerance(dtype, magnitude, from_terms=terms is not None)
    error = (got - want).abs()
    wrong = ~(error <= allowed)
    assert not bool(wrong.any()), _describe(got, want, error, allowed, wrong, dtype)
    return None


def assert_equal(actual, expected):
    """Fail unless every element is exactly the same number (dtypes may differ; NaN equals nothing)."""
    __tracebackhide__ = True
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    whole = not (actual.is_floating_point() or expected.is_floating_point())
    got, want = (t.detach().to("cpu", torch.int64 if whole else torch.float64) for t in (actual, expected))
    wrong = ~(got == want)
    assert not bool(wrong.any()), _describe(got, want, (got - want).abs(), torch.zeros_like(want), wrong, actual.dtype)


def _describe(got, want, error, allowed, wrong, dtype):
    worst = torch.where(wrong, error.double().nan_to_num(torch.inf) - allowed, -torch.inf).argmax()
    at = tuple(int(i) for i in torch.unravel_index(worst, want.shape))
    return (
        f"{int(wrong.sum())} of {want.numel()} elements are wrong ({dtype}); the worst at {at}: {got[at].item()!r}, "
        f"expected {want[at].item()!r}, error {error[at].item():.3g}, allowed {allowed[at].item():.3g}"
    )
