# SPDX-License-Identifier: Apache-2.0
"""Which kernel runs a problem, and in one sentence each why not the others. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from .family import Kernel, family_of
from .problem import ConvProblem


@dataclass(frozen=True)
class Choice:
    """The kernel that runs, and the sentence of every faster one that refused."""

    kernel: Kernel
    refused: tuple[tuple[str, str], ...]

    @property
    def reason(self) -> str:
        """Why this kernel: what it is, and what the ones before it said."""
        said = "".join(f" Not {name}: {why}" for name, why in self.refused)
        return f"{self.kernel.name}: {self.kernel.summary}{said}"


def choose(problem: ConvProblem) -> Choice:
    """Return the first kernel of the problem's family that does not refuse it."""
    refused: list[tuple[str, str]] = []
    for kernel in family_of(problem).kernels:
        why = kernel.refuse(problem)
        if why is None:
            return Choice(kernel, tuple(refused))
        refused.append((kernel.name, why))
    raise RuntimeError(f"every kernel of {problem.family!r} refused {problem}: {refused}")


def needs_even_zeros(problem: ConvProblem) -> str | None:
    """The ``refuse`` of kernels that hand the padding to ATen's convolution: zeros, one fixed number an axis."""
    if problem.padding_mode != "zeros":
        return f"ATen's convolution pads with zeros only, and the padding mode is {problem.padding_mode!r}."
    if not problem.fixed_pads:
        return "the padding depends on the input size, and ATen's convolution takes fixed numbers."
    if any(before != after for before, after in problem.pads()):
        return f"the padding {problem.pads()} is not the same on both sides, and ATen takes one number an axis."
    return None
