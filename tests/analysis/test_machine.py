# SPDX-License-Identifier: Apache-2.0
"""The roofline's arithmetic on an assumed machine, and what a real measurement must contain (never how fast)."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from omniconv.analysis import machine as module
from omniconv.analysis.machine import Bound, Machine, measure_machine

ASSUMED = Machine("assumed", "cpu", "float32", 2, "2.13.0", 1e11, ((1e6, 4e10), (1e8, 1e10)))


def test_bandwidth_is_linear_in_the_logarithm_of_the_size():
    assert ASSUMED.bandwidth(1e6) == 4e10
    assert ASSUMED.bandwidth(1e7) == pytest.approx(2.5e10)
    assert ASSUMED.bandwidth(1e8) == 1e10


def test_bandwidth_is_constant_beyond_the_ends():
    assert ASSUMED.bandwidth(0) == ASSUMED.bandwidth(10) == 4e10
    assert ASSUMED.bandwidth(1e12) == 1e10
    assert replace(ASSUMED, bandwidths=((1e6, 5.0),)).bandwidth(1e9) == 5.0


def test_bandwidth_passes_through_every_measured_point():
    points = ((1.0, 8.0), (2.0, 9.0), (4.0, 3.0), (64.0, 2.0))
    machine = replace(ASSUMED, bandwidths=points)
    assert tuple((size, machine.bandwidth(size)) for size, _ in points) == points
    assert machine.bandwidth(16.0) == pytest.approx(2.5)


def test_roofline_says_which_side_binds():
    assert ASSUMED.roofline(4.62e8, 1e6) == Bound(4.62e-3, "compute")
    assert ASSUMED.roofline(1e6, 1e8) == Bound(1e-2, "memory")
    assert ASSUMED.roofline(0, 0) == Bound(0.0, "compute")


@pytest.mark.parametrize(("flops", "nbytes", "name"), [(-1, 1, "flops"), (1, -1, "nbytes"), (math.nan, 1, "flops")])
def test_roofline_refuses(flops, nbytes, name):
    with pytest.raises(ValueError, match=rf"`{name}` \(=.*must not be negative"):
        ASSUMED.roofline(flops, nbytes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"peak": 0.0},
        {"peak": math.inf},
        {"bandwidths": ()},
        {"bandwidths": ((2.0, 1.0), (1.0, 1.0))},
        {"bandwidths": ((1.0, 1.0), (1.0, 2.0))},
        {"bandwidths": ((1.0, 0.0),)},
        {"bandwidths": ((0.0, 1.0),)},
    ],
)
def test_machine_refuses(wrong):
    with pytest.raises(ValueError, match=rf"`{next(iter(wrong))}` \(="):
        replace(ASSUMED, **wrong)


def test_noise_is_judged_like_a_timing():
    assert replace(ASSUMED, noise=0.21).noisy
    assert not replace(ASSUMED, noise=0.2).noisy


@pytest.fixture
def hurried(monkeypatch):
    """The real measurement on small sizes, a few milliseconds in all."""
    monkeypatch.setattr(module, "WORKING_SETS", (10_000, 20_000))
    monkeypatch.setattr(module, "PRODUCTS", {"cpu": (16, 32), "gpu": ()})
    monkeypatch.setattr(module, "SECONDS", dict.fromkeys(module.SECONDS, 0.01))


@pytest.mark.parametrize("dtype", module.DTYPES)
@pytest.mark.usefixtures("hurried")
def test_measurement(dtype):
    found = measure_machine(dtype)
    assert (found.device, found.dtype, found.threads, found.torch) == ("cpu", dtype, 1, torch.__version__)
    assert found.name
    assert found.peak > 0
    assert [size for size, _ in found.bandwidths] == [10_000, 20_000]
    assert found.noise >= 0
    again = json.loads(json.dumps(found.to_dict()))
    assert Machine(**{**again, "bandwidths": tuple(map(tuple, again["bandwidths"]))}) == found


@pytest.mark.usefixtures("hurried")
def test_peak_of_a_half_type_is_at_least_that_of_float32(monkeypatch):
    rates = {torch.float16: 1e9, torch.float32: 1e11, torch.float64: 5e10}
    monkeypatch.setattr(module._Bench, "_peak", lambda self, dtype, seconds: rates[dtype])
    assert measure_machine(torch.float16).peak == 1e11
    assert measure_machine(torch.float64).peak == 5e10


@pytest.mark.usefixtures("hurried")
def test_threads_are_those_asked_for_and_put_back(monkeypatch):
    seen = []
    peak = module._Bench.peak
    monkeypatch.setattr(module._Bench, "peak", lambda self: [seen.append(torch.get_num_threads()), peak(self)][1])
    assert measure_machine(threads=2).threads == 2
    assert seen == [2]
    assert torch.get_num_threads() == 1


def test_a_slow_machine_is_not_given_the_large_products(monkeypatch):
    tried, now = [], [0.0]

    def time(self, calls, seconds):
        size = tried[-1]
        now[0] += 5 * 2 * size**3 / 1e9
        return {name: module.Timing.of([2 * size**3 / 1e9] * 3) for name in calls}

    monkeypatch.setattr(module._Bench, "_products", lambda self, size, dtype: {"p": tried.append(size)})
    monkeypatch.setattr(module._Bench, "time", time)
    bench = module._Bench(torch.device("cpu"), torch.float32, None, lambda: now[0])
    assert bench.peak() == pytest.approx(1e9)
    assert tried == [512]
    assert now[0] < 2


def test_the_pointwise_convolution_is_the_matrix_product():
    bench = module._Bench(torch.device("meta"), torch.float32, None, lambda: 0.0)
    found = bench._products(64, torch.float32)["pointwise convolution"]()
    assert found.shape == (1, 64, 32, 2)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"dtype": "int8"}, ValueError, r"`dtype` \(=int8\).*use float32"),
        ({"dtype": torch.complex64}, ValueError, r"`dtype` \(=complex64\)"),
        ({"threads": 0}, ValueError, r"`threads` \(=0\) must be at least 1; use 1"),
        ({"threads": 2.0}, TypeError, r"`threads` \(=2.0\) must be an int"),
        ({"threads": True}, TypeError, r"`threads` \(=True\)"),
        ({"device": "meta"}, ValueError, r"`device` \(=meta\) is not on this machine; use cpu"),
        ({"device": "gpu"}, ValueError, r"`device` \(=gpu\) is not on this machine; use cpu"),
        ({"device": "cuda:99"}, ValueError, r"`device` \(=cuda:99\) is not on this machine; use cpu"),
    ],
)
def test_measuring_refuses(arguments, error, text):
    with pytest.raises(error, match=text):
        measure_machine(**arguments)
