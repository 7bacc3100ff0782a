# SPDX-License-Identifier: Apache-2.0
"""What is timed: every named setting at one layer position, and every named case of every family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omniconv.core.family import Family, Position, families, family_of, settings
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan

POSITION = Position(64, 128, (56, 56), (3, 3), (1, 1), (1, 1))


@dataclass(frozen=True)
class Benchmark:
    """A problem under a name, with tensors to run it on."""

    name: str
    problem: ConvProblem

    @property
    def family(self) -> Family:
        """The record of the problem's family."""
        return family_of(self.problem)

    @property
    def empty(self) -> bool:
        """Whether there is no output to compute."""
        return self.problem.batch == 0

    def tensors(self, dtype: torch.dtype, device: str) -> tuple[Tensor | None, ...]:
        """Random values of the shapes that the family's record asks for."""
        generator = torch.Generator().manual_seed(0)
        shapes = self.family.tensors(self.problem).values()
        made = (None if shape is None else torch.randn(shape, generator=generator) for shape in shapes)
        return tuple(None if t is None else t.to(device, dtype) for t in made)

    def reference(self, tensors: tuple[Tensor | None, ...]) -> Tensor:
        """The right answer, by the formula in float64."""
        wide = (None if t is None else t.detach().to("cpu", torch.float64) for t in tensors)
        return self.family.part("reference").reference(self.problem, *wide)

    def ours(self, tensors: tuple[Tensor | None, ...]) -> Callable[[], Tensor]:
        """The call that a user of omniconv makes, its checks included."""
        plan = Plan(self.problem)
        return lambda: plan(*tensors)

    def torchs(self, tensors: tuple[Tensor | None, ...]) -> Callable[[], Tensor] | None:
        """What a user of torch alone writes for the same problem, where torch has the function."""
        problem = self.problem
        names = [name for name in self.family.functions if name.endswith(f"{problem.dim}d") and hasattr(F, name)]
        if not names:
            return None
        function = getattr(F, names[0])
        numbers = {"stride": problem.stride, "dilation": problem.dilation, "groups": problem.groups}
        pads = problem.pads()
        if problem.transposed:
            limits = map(max, problem.stride, problem.dilation)
            if any(extra >= limit for extra, limit in zip(problem.appended, limits, strict=True)):
                return None
            numbers["output_padding"] = problem.appended
        even = all(before == after for before, after in pads) and problem.padding_mode == "zeros"
        if even:
            padding = tuple(before for before, _ in pads)
            return lambda: function(*tensors, padding=padding, **numbers)
        if problem.transposed:
            return None
        input, *others = tensors
        around = [p for pair in reversed(pads) for p in pair]
        mode = "constant" if problem.padding_mode == "zeros" else problem.padding_mode
        return lambda: function(F.pad(input, around, mode=mode), *others, **numbers)


def benchmarks(only: str | None = None) -> Iterator[Benchmark]:
    """All of them, or those whose family, name or problem string contains `only`."""
    for benchmark in _all():
        if only is None or any(only in text for text in (benchmark.name, str(benchmark.problem))):
            yield benchmark


def _all() -> Iterator[Benchmark]:
    for name, (_, setting) in settings().items():
        nearest = setting.nearest(POSITION)
        yield Benchmark(f"{name} (layer)", setting.build(nearest[0] if nearest else POSITION))
    for family in families().values():
        for name, text in family.cases.items():
            yield Benchmark(name, ConvProblem.parse(text))
