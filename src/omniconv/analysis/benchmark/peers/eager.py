# SPDX-License-Identifier: Apache-2.0
"""Eager torch, its tensors as they lie."""

from __future__ import annotations

from omniconv.analysis.benchmark.operands import Operands
from omniconv.analysis.benchmark.peers import Call
from omniconv.analysis.benchmark.peers.plain import answered, function_of
from omniconv.analysis.benchmark.problems import Benchmark


def prepare(benchmark: Benchmark, operands: Operands, threads: int) -> Call:
    """Torch's own functions."""
    return answered(function_of(benchmark), operands)
