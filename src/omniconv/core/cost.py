# SPDX-License-Identifier: Apache-2.0
"""What a convolution costs: formulas in the project's letters that evaluate to exact integers. It imports no torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from .problem import ConvProblem

_ALLOWED = (ast.Expression, ast.BinOp, ast.Name, ast.Load, ast.Constant, ast.Add, ast.Sub, ast.Mult, ast.FloorDiv)


@dataclass(frozen=True)
class Formula:
    """An integer expression in named letters, such as ``N*P*O*C//G*K``: shown as symbols, as numbers, and evaluated."""

    text: str
    letters: Mapping[str, int]

    @cached_property
    def value(self) -> int:
        """The exact integer."""
        tree = ast.parse(self.text, mode="eval")
        for node in ast.walk(tree):
            if not isinstance(node, _ALLOWED) or type(getattr(node, "value", 0)) is not int:
                raise ValueError(f"`text` (={self.text!r}) may hold only names, integers and + - * //.")
        code = compile(tree, self.text, "eval")
        return int(eval(code, {"__builtins__": {}}, dict(self.letters)))  # noqa: S307  # only the nodes allowed above

    @property
    def symbols(self) -> str:
        """The formula in letters: ``N·P·O·C/G·K``."""
        return self.text.replace("//", "/").replace("*", "·")

    @property
    def numbers(self) -> str:
        """The formula with the numbers put in: ``1·3,136·128·64/1·9``."""
        return re.sub(r"[A-Za-z_]\w*", lambda m: f"{self.letters[m[0]]:,}", self.symbols)


@dataclass(frozen=True)
class Step:
    """One pass over memory: it reads its inputs and its weights, multiplies and adds, and writes its output.

    Attributes:
        name: what the step does.
        params, macs: weights held and multiply-adds done, without bias.
        inputs, outputs: elements read (weights aside) and elements written.
        bias: parameters of the bias.
        bias_adds: additions of the bias, counted apart from the MACs.
        sampling: multiply-adds of bilinear sampling, counted apart.
        exponentials: exponentials of a softmax, counted apart.
        walk: the convolution whose products a loop can count to prove ``macs``; None where no loop walks this step.
    """

    name: str
    params: Formula
    macs: Formula
    inputs: Formula
    outputs: Formula
    bias: int = 0
    bias_adds: int = 0
    sampling: int = 0
    exponentials: int = 0
    walk: ConvProblem | None = None

    @property
    def elements(self) -> int:
        """Least elements moved between memory and the step: inputs, weights and outputs once each."""
        return self.inputs.value + self.params.value + self.bias + self.outputs.value

    @property
    def flops(self) -> int:
        """Floating-point operations for a roofline: two a multiply-add, sampling included, plus the bias."""
        return 2 * (self.macs.value + self.sampling) + self.bias_adds


@dataclass(frozen=True)
class Cost:
    """The cost of one problem: its steps, and their sums."""

    problem: ConvProblem
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def params(self) -> int:
        """Parameters, bias included."""
        return sum(step.params.value + step.bias for step in self.steps)

    @property
    def macs(self) -> int:
        """Multiply-adds of the convolution itself; one MAC is one multiplication with its addition."""
        return sum(step.macs.value for step in self.steps)

    @property
    def bias_adds(self) -> int:
        return sum(step.bias_adds for step in self.steps)

    @property
    def sampling(self) -> int:
        return sum(step.sampling for step in self.steps)

    @property
    def exponentials(self) -> int:
        return sum(step.exponentials for step in self.steps)

    @property
    def flops(self) -> int:
        return sum(step.flops for step in self.steps)

    def bytes(self, itemsize: int = 4) -> int:
        """Least bytes moved, step by step, for elements of ``itemsize`` bytes."""
        return itemsize * sum(step.elements for step in self.steps)

    def intensity(self, itemsize: int = 4) -> float:
        """FLOP per byte."""
        moved = self.bytes(itemsize)
        return self.flops / moved if moved else 0.0


def letters_of(problem: ConvProblem) -> dict[str, int]:
    """The sizes that formulas name: N C O G K and the products P (output positions) and I (input positions)."""
    if problem.in_size is None:
        raise ValueError("`in_size` (=None) must be known for a cost; use problem.at(in_size).")
    return {
        "N": 1 if problem.batch is None else problem.batch,
        "C": problem.in_channels,
        "O": problem.out_channels,
        "G": problem.groups,
        "K": prod(problem.kernel_size),
        "P": prod(problem.out_size),
        "I": prod(problem.in_size),
    }


def step_of(
    name: str,
    letters: Mapping[str, int],
    *,
    params: str,
    macs: str,
    inputs: str,
    outputs: str,
    bias: str = "0",
    bias_adds: str = "0",
    sampling: str = "0",
    exponentials: str = "0",
    walk: ConvProblem | None = None,
) -> Step:
    """Build a step from formula texts over one table of letters."""

    def number(text: str) -> int:
        return Formula(text, letters).value

    return Step(
        name,
        Formula(params, letters),
        Formula(macs, letters),
        Formula(inputs, letters),
        Formula(outputs, letters),
        number(bias),
        number(bias_adds),
        number(sampling),
        number(exponentials),
        walk,
    )
