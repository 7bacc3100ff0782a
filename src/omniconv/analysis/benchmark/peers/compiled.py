# SPDX-License-Identifier: Apache-2.0
"""``torch.compile`` with its defaults, at the size of the benchmark."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omniconv.analysis.benchmark.operands import Operands
from omniconv.analysis.benchmark.peers import Call
from omniconv.analysis.benchmark.peers.plain import answered, function_of
from omniconv.analysis.benchmark.problems import Benchmark


def prepare(benchmark: Benchmark, operands: Operands, threads: int) -> Call:
    """Torch's own functions, compiled. The first call compiles."""
    # Every benchmark compiles the same code object anew; after eight of them Dynamo would give up without this.
    torch.compiler.reset()
    function = function_of(benchmark)

    def run(*tensors: Tensor | None) -> Tensor:
        return function(*tensors)

    compiled: Any = torch.compile(run, dynamic=False)
    return answered(compiled, operands)
