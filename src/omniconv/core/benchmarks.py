# SPDX-License-Identifier: Apache-2.0
"""What a family's record says about timing it: named problems, and how other libraries compute them. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .problem import ConvProblem

# Group (of the results and of their chart) → name → problem string, and its variants: a layout, then the dtype where
# it is not float32; the activation that follows, if any; ``add`` where a residual of the output's shape is added before
# it; then ``train`` where gradients are timed too, as in ``cl.bf16.relu6.add.train``. Of several convolutions the
# activation follows each, and the residual is added before the last.
Problems = Mapping[str, Mapping[str, tuple[str, str]]]


@dataclass(frozen=True)
class Plain:
    """One ordinary convolution, gathering or transposed, of the sequence that computes a problem.

    Every library has those, so this is what a user of another library writes.

    Attributes:
        problem: its numbers.
        weight, bias: which tensor arguments of the family it takes.
        softmax: whether each kernel is normalised over its taps first.
        repeat: neighbouring channels that share a kernel, which is repeated for them.
        varies: whether each position has a kernel of its own, in a weight (n, h, *k, *p). No convolution takes it:
            libraries add up the input, shifted by each tap, times the tap's weights.
    """

    problem: ConvProblem
    weight: str
    bias: str | None = None
    softmax: bool = False
    repeat: int = 1
    varies: bool = False


@dataclass(frozen=True)
class Node:
    """An operator of ONNX that computes a problem by itself: tensor arguments in its order, "" where one is absent."""

    operator: str
    inputs: tuple[str, ...]
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Benchmarks:
    """The named problems of a family, and how others compute any of its problems.

    Attributes:
        problems: those that are timed.
        plain: the ordinary convolutions, in sequence; () for none.
        node: the operator of ONNX, where ordinary convolutions are none; None where there is no such operator.
        followed: the layer of a problem with an activation, a function or None, after each convolution. Its parameters
            have the names of the family's tensors, and its call takes a residual behind the input.
    """

    problems: Problems = field(default_factory=dict)
    plain: Callable[[ConvProblem], tuple[Plain, ...]] = field(default=lambda problem: ())
    node: Callable[[ConvProblem], Node | None] = field(default=lambda problem: None)
    followed: Callable[[ConvProblem, Any], Any] | None = None


def itself(problem: ConvProblem) -> tuple[Plain, ...]:
    """The ``plain`` of a family that every library has."""
    return (Plain(problem, "weight", "bias" if problem.bias else None),)
