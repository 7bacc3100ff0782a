# SPDX-License-Identifier: Apache-2.0
"""What is timed: the named problems of every family's record, and every setting at one layer position. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from omniconv.core.family import Family, Position, families, family_of, settings
from omniconv.core.problem import ConvProblem

# Channels first, (N, C, *); channels last in memory, (N, *, C) under the same shape.
LAYOUTS = ("cf", "cl")
DTYPES = ("float32", "bfloat16")
MODES = ("forward", "training")
# Functions of torch.nn.functional.
ACTIVATIONS = ("relu", "relu6", "silu", "gelu", "hardswish")
POSITION = Position(64, 128, (56, 56), (3, 3), (1, 1), (1, 1))
_VARIANT = re.compile(rf"({'|'.join(LAYOUTS)})(\.bf16)?(?:\.({'|'.join(ACTIVATIONS)}))?(\.add)?(\.train)?")


@dataclass(frozen=True)
class Benchmark:
    """A problem under a name, with how its tensors lie, what they hold, and whether gradients are computed too.

    Attributes:
        activation: what follows every convolution of the problem, a word of ``ACTIVATIONS`` or "".
        add: whether a residual of the output's shape is added before the last activation.
    """

    name: str
    group: str
    problem: ConvProblem
    layout: str
    dtype: str
    mode: str
    activation: str = ""
    add: bool = False

    @classmethod
    def of(cls, group: str, base: str, problem: ConvProblem, variant: str) -> Benchmark:
        """The variant ``layout[.dtype][.activation][.add][.train]`` of a problem; the name is ``base/variant``."""
        found = _VARIANT.fullmatch(variant)
        if found is None:
            raise ValueError(
                f"`variant` (={variant!r}) must be a layout, then where wanted bf16, one of {', '.join(ACTIVATIONS)}, "
                "add and train; use 'cl.bf16.relu6.add.train'."
            )
        layout, half, activation, add, train = found.groups()
        dtype, mode = DTYPES[bool(half)], MODES[bool(train)]
        return cls(f"{base}/{variant}", group, problem, layout, dtype, mode, activation or "", bool(add))

    @property
    def family(self) -> Family:
        """The record of the problem's family."""
        return family_of(self.problem)

    @property
    def training(self) -> bool:
        """Whether gradients are computed too."""
        return self.mode == "training"

    @property
    def followed(self) -> bool:
        """Whether anything follows the convolution."""
        return bool(self.activation) or self.add

    def work(self) -> tuple[int, int]:
        """FLOPs, and the least bytes to move between memory and the processor: what bounds the time from below.

        A multiply-add is two FLOPs, and taps that fall on padding count. Backward takes twice the FLOPs of forward:
        one such pass for the gradient of the input and one for that of the weights. The least bytes are those of
        every argument read and the output written, once each; what is computed between the passes of a factored
        convolution need not reach memory. Backward reads the output's gradient, the input and the weights, and writes
        the gradients of both. What is added is read, and backward writes its gradient; activations cost nothing.
        """
        given = sum(prod(shape) for shape in self.family.tensors(self.problem).values() if shape is not None)
        output = (self.problem.batch or 1) * self.problem.out_channels * prod(self.problem.out_size)
        flops, elements = self.family.cost(self.problem).flops, given + output
        if self.training:
            flops, elements = 3 * flops, elements + output + 2 * given
        if self.add:
            elements += output * (2 if self.training else 1)
        return flops, elements * (4 if self.dtype == "float32" else 2)


def benchmarks(
    pattern: str = "", *, dtype: str | None = None, layout: str | None = None, mode: str | None = None
) -> list[Benchmark]:
    """Those whose name, group or problem string ``pattern`` matches somewhere, and that have what else is asked for.

    Raises:
        ValueError: the pattern is no regular expression.
    """
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`regex` (={pattern!r}) is no regular expression: {error}.") from error
    return [
        benchmark
        for benchmark in every()
        if any(map(wanted.search, (benchmark.name, benchmark.group, str(benchmark.problem))))
        and dtype in (None, benchmark.dtype)
        and layout in (None, benchmark.layout)
        and mode in (None, benchmark.mode)
    ]


def every() -> Iterator[Benchmark]:
    """All of them, in the order of the documentation; groups that several families fill stand together."""
    groups: dict[str, list[Benchmark]] = {}
    for family in families().values():
        for group, problems in family.benchmarks.problems.items():
            groups.setdefault(group, []).extend(
                Benchmark.of(group, base, ConvProblem.parse(text), variant)
                for base, (text, variants) in problems.items()
                for variant in variants.split()
            )
    for found in groups.values():
        yield from found
    for name, (_, setting) in settings().items():
        nearest = setting.nearest(POSITION)
        problem = setting.build(nearest[0] if nearest else POSITION)
        yield Benchmark.of("every setting", f"{name}_56", problem, LAYOUTS[0])
