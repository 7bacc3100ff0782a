# SPDX-License-Identifier: Apache-2.0
"""The tensors of a benchmark, as a user of its layout would hold them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omniconv.analysis.benchmark.problems import Benchmark

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Operands:
    """The arguments of one call.

    Attributes:
        tensors: in schema order; None: absent. They ask for gradients where the benchmark trains.
        gradient: of the output, where the benchmark trains.
    """

    tensors: tuple[Tensor | None, ...]
    gradient: Tensor | None

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors whose gradients are computed."""
        return [tensor for tensor in self.tensors if tensor is not None]

    def wide(self) -> Operands:
        """The same values in float64, contiguous on the CPU."""
        tensors = (None if t is None else _wide(t).requires_grad_(t.requires_grad) for t in self.tensors)
        return Operands(tuple(tensors), None if self.gradient is None else _wide(self.gradient))


def operands_of(benchmark: Benchmark, device: str) -> Operands:
    """Random values of the shapes that the family's record asks for, the same every time."""
    generator = torch.Generator().manual_seed(0)
    family, problem, dtype = benchmark.family, benchmark.problem, getattr(torch, benchmark.dtype)

    def made(shape: tuple[int, ...], *, positions: bool) -> Tensor:
        tensor = torch.randn(shape, generator=generator).to(device, dtype)
        return laid(tensor, positions=positions) if benchmark.layout == "cl" else tensor

    tensors = tuple(
        None if shape is None else made(shape, positions=name in family.batched).requires_grad_(benchmark.training)
        for name, shape in family.tensors(problem).items()
    )
    out = (problem.batch or 1, problem.out_channels, *problem.out_size)
    return Operands(tensors, made(out, positions=True) if benchmark.training else None)


def laid(tensor: Tensor, *, positions: bool) -> Tensor:
    """The tensor with its channels innermost in memory.

    Weights follow where torch has a memory format for them, as ``module.to(memory_format=…)`` makes them; those of a
    sequence, for which it has none, stay as they are.
    """
    if tensor.dim() in CHANNELS_LAST:
        return tensor.contiguous(memory_format=CHANNELS_LAST[tensor.dim()])
    return tensor.transpose(1, 2).contiguous().transpose(1, 2) if positions and tensor.dim() == 3 else tensor


def _wide(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64, memory_format=torch.contiguous_format)
