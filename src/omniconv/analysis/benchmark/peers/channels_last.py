# SPDX-License-Identifier: Apache-2.0
"""Eager torch through channels_last: the input converted there and the output back, where they lie otherwise."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from omniconv.analysis.benchmark.operands import CHANNELS_LAST, Operands, laid
from omniconv.analysis.benchmark.peers import Call, Unavailable
from omniconv.analysis.benchmark.peers.plain import answered, function_of
from omniconv.analysis.benchmark.problems import Benchmark


def prepare(benchmark: Benchmark, operands: Operands, threads: int) -> Call:
    """Torch's own functions; a sequence becomes an image of one row, because torch has channels_last from two axes on.

    Raises:
        Unavailable: the tensors lie in channels_last already.
    """
    dim = benchmark.problem.dim
    last, sequence = benchmark.layout == "cl", dim == 1
    if last and not sequence:
        raise Unavailable("the tensors lie in channels_last already: as torch")
    function = function_of(benchmark, as_image=sequence)
    memory_format = CHANNELS_LAST[max(dim, 2) + 2]

    def run(input: Tensor, *others: Tensor | None) -> Tensor:
        image = input.unsqueeze(2) if sequence else input
        if benchmark.add and sequence:
            *rest, residual = others
            others = (*rest, residual.unsqueeze(2))  # type: ignore[union-attr]  # what is added is there
        output = function(image.contiguous(memory_format=memory_format), *others)
        output = output.squeeze(2) if sequence else output
        return output if last else output.contiguous()

    input, *others = operands.tensors
    weights = (None if t is None else laid(t.detach(), positions=False).requires_grad_(t.requires_grad) for t in others)
    return answered(run, replace(operands, tensors=(input, *weights)))
