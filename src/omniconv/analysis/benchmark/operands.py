# SPDX-License-Identifier: Apache-2.0
"""The tensors of a benchmark, as a user of its layout would hold them."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, prod, sqrt

import torch
from torch import Tensor

from omniconv.analysis.benchmark.problems import Benchmark

RESIDUAL = "residual"
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Operands:
    """The arguments of one call.

    Attributes:
        tensors: in schema order; None: absent. They ask for gradients where the benchmark trains.
        gradient: of the output, where the benchmark trains.
        residual: what is added to the output, where the benchmark adds; it asks for its gradient too.
    """

    tensors: tuple[Tensor | None, ...]
    gradient: Tensor | None
    residual: Tensor | None = None

    @property
    def arguments(self) -> tuple[Tensor | None, ...]:
        """The tensors, and what is added behind them."""
        return self.tensors if self.residual is None else (*self.tensors, self.residual)

    @property
    def leaves(self) -> list[Tensor]:
        """The arguments whose gradients are computed."""
        return [tensor for tensor in self.arguments if tensor is not None]

    def wide(self) -> Operands:
        """The same values in float64, contiguous on the CPU."""
        tensors = tuple(None if t is None else _wide(t) for t in self.tensors)
        gradient, residual = (None if t is None else _wide(t) for t in (self.gradient, self.residual))
        return Operands(tensors, gradient, residual)


def operands_of(benchmark: Benchmark, device: str) -> Operands:
    """Random values of the shapes that the family's record asks for, the same every time."""
    generator = torch.Generator().manual_seed(0)
    family, problem, dtype = benchmark.family, benchmark.problem, getattr(torch, benchmark.dtype)
    grids = _grids(benchmark) if benchmark.followed else {}

    def made(name: str, shape: tuple[int, ...], *, positions: bool) -> Tensor:
        tensor = torch.randn(shape, generator=generator)
        tensor = (grids[name].of(tensor) if name in grids else tensor).to(device, dtype)
        if benchmark.layout != "cl":
            return tensor
        if positions and len(shape) > problem.dim + 2:  # kernels, as a layer in this layout predicts them
            numbers = tensor.flatten(1, -1 - problem.dim)
            return laid(numbers, positions=True).unflatten(1, shape[1 : -problem.dim])
        return laid(tensor, positions=positions)

    train = benchmark.training
    tensors = tuple(
        None if shape is None else made(name, shape, positions=name in family.batched).requires_grad_(train)
        for name, shape in family.tensors(problem).items()
    )
    out = (problem.batch or 1, problem.out_channels, *problem.out_size)
    gradient = made("", out, positions=True) if train else None
    residual = made(RESIDUAL, out, positions=True).requires_grad_(train) if benchmark.add else None
    return Operands(tensors, gradient, residual)


@dataclass(frozen=True)
class _Grid:
    """The multiples of ``unit``, or those of half of it that are not; ``spread`` is how many units are usual."""

    unit: float
    spread: float
    halves: bool = False

    def of(self, normal: Tensor) -> Tensor:
        return ((normal * self.spread).round() + (0.5 if self.halves else 0.0)) * self.unit


def _grids(benchmark: Benchmark) -> dict[str, _Grid]:
    """Where the arguments of a problem lie that something follows.

    Float32 sums multiples of powers of two exactly, in any order, and with biases half a step aside no sum is 0 or 6:
    by rounding alone it could be on the other side of such a kink of an activation, where the gradient is another. Sums
    are of the order of one, as in networks: silu of less than -87 is a denormal number, which takes a processor a
    hundred times as long.
    """
    shapes, unit = benchmark.family.tensors(benchmark.problem), 0.25
    found = {name: _Grid(unit, 1 / unit) for name in (next(iter(shapes)), RESIDUAL)}
    for step in benchmark.family.benchmarks.plain(benchmark.problem):
        shape = shapes[step.weight] or ()
        scale = 2.0 ** -round(log2(2 * sqrt(prod(shape[1:]))))
        found[step.weight] = _Grid(scale, 2)
        unit *= scale
        if step.bias:
            found[step.bias] = _Grid(unit, 8, halves=True)
            unit /= 2
    return found


def laid(tensor: Tensor, *, positions: bool) -> Tensor:
    """The tensor with its channels innermost in memory.

    Weights follow where torch has a memory format for them, as ``module.to(memory_format=…)`` makes them; those of a
    sequence, for which it has none, stay as they are.
    """
    if tensor.dim() in CHANNELS_LAST:
        return tensor.contiguous(memory_format=CHANNELS_LAST[tensor.dim()])
    return tensor.transpose(1, 2).contiguous().transpose(1, 2) if positions and tensor.dim() == 3 else tensor


def _wide(tensor: Tensor) -> Tensor:
    wide = tensor.detach().to("cpu", torch.float64, memory_format=torch.contiguous_format)
    return wide.requires_grad_(tensor.requires_grad)
