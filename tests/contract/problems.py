# SPDX-License-Identifier: Apache-2.0
"""What the contract is checked on: every kernel on every named problem of every registered family, and data for it.

A check is a function ``check_…(problem, plan_for)`` that raises ``AssertionError`` where the contract is broken;
``plan_for(problem)`` returns what is called with the family's tensors. The green tests give it the registered kernel,
:mod:`contract.test_red` gives it broken ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import pytest
import torch

from omniconv.core.choose import choose
from omniconv.core.family import Family, Kernel, families, family_of
from omniconv.core.library import absent
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from tolerance import assert_close, assert_equal


@dataclass(frozen=True)
class Case:
    """One named problem of a family, on one kernel that takes it, in a type that the kernel computes in.

    ``by_name`` is a compiled kernel called as the operator that compiled graphs hold, not by a plan's quick way.
    """

    family: Family
    name: str
    problem: ConvProblem
    kernel: Kernel
    dtype: torch.dtype = torch.float64
    by_name: bool = False

    def __str__(self):
        kind = "-bfloat16" * (self.dtype == torch.bfloat16) + "-by-name" * self.by_name
        return f"{self.family.name}-{self.name}-{self.kernel.name}{kind}"

    @property
    def plan_for(self):
        return ByName if self.by_name else plans_of(self.kernel)

    @property
    def chosen(self):
        """Whether the chooser takes this kernel for this problem."""
        return choose(self.problem).kernel == self.kernel

    @property
    def size(self):
        return sum(prod(shape) for shape in self.family.tensors(self.problem).values() if shape is not None)


def plans_of(kernel):
    """Plans that run ``kernel`` whatever the chooser says, on every problem that it does not refuse."""

    def plan_for(problem):
        return Plan(problem, kernel if kernel.refuse(problem) is None else None)

    return plan_for


class ByName(Plan):
    """A plan that calls the operator of its compiled kernel, without a check and whatever looks on."""

    def __call__(self, *tensors):
        return self._native.operator(*tensors, self._packed(tensors))


def _named():
    for family in families().values():
        for name, text in family.cases.items():
            problem = ConvProblem.parse(text)
            for kernel in family.kernels:
                if kernel.refuse(problem) is None and not (kernel.compiled and absent()):
                    yield Case(family, name, problem, kernel, torch.float32 if kernel.compiled else torch.float64)


# Each kernel in the widest type that it computes in: small numbers and their sums are exact there.
CASES = tuple(_named())
CHOSEN = tuple(case for case in CASES if case.chosen)
COMPILED = tuple(case for case in CASES if case.kernel.compiled)
# Compiled kernels once more in the type that rounds their results, and in both as operators.
ROUNDED = tuple(replace(case, dtype=torch.bfloat16) for case in COMPILED)
OPERATORS = tuple(replace(case, by_name=True) for case in (*COMPILED, *ROUNDED) if case.chosen)


def features(case):
    """What makes a case unlike others: its setting, its dimensions, its paddings, what is special to it."""
    p = case.problem
    found = {("setting", case.family.setting_of(p).name, p.dim), ("mode", p.padding_mode), ("bias", p.bias)}
    found |= {("padding", e if isinstance(e, str) else ("pair", e[0] == e[1])) for e in p.padding}
    found |= {("special", name, value if isinstance(value, str) else value > 1) for name, value in p.special}
    found |= {("strided", any(s > 1 for s in p.stride)), ("spread", any(d > 1 for d in p.dilation))}
    return found | {("appended", any(p.output_padding)), ("kernel", case.kernel.name)}


def covering(cases, most=None):
    """A few of ``cases`` that show every feature of them all, or at most so many of each family that show the most.

    Kernels of few taps come first: a trace and a loop grow with the taps.
    """
    chosen = []
    for family in dict.fromkeys(case.family for case in cases):
        pool = sorted((c for c in cases if c.family is family and c.problem.batch), key=lambda c: c.size)
        left = set().union(*map(features, pool))
        for _ in range(most or len(pool)):
            best = max(pool, key=lambda c: len(features(c) & left) / prod(c.problem.kernel_size) ** 0.5)
            if not features(best) & left:
                break
            chosen.append(best)
            left -= features(best)
    return tuple(sorted(chosen, key=cases.index))


def first_of_each_family(cases):
    """The smallest of ``cases`` in each family that has a batch."""
    return _first_of_each(cases, lambda case: case.family.name)


def first_of_each_kernel(cases):
    """The smallest of ``cases`` on each kernel of each family that has a batch."""
    return _first_of_each(cases, lambda case: (case.family.name, case.kernel.name, case.dtype))


def _first_of_each(cases, kind):
    found = {}
    for case in sorted((c for c in cases if c.problem.batch), key=lambda c: c.size):
        found.setdefault(kind(case), case)
    return tuple(found.values())


def each(cases):
    """Parametrize a test by ``case``."""
    return pytest.mark.parametrize("case", cases, ids=str)


def legal(problem, in_size=None, batch=None):
    """``problem`` on an input of that size if its rules allow it, else None."""
    try:
        Plan(problem)
        return problem.at(in_size or problem.in_size, problem.batch if batch is None else batch)
    except ValueError:
        return None


def grown(problem, by=3):
    """The same problem on a larger batch of larger inputs."""
    return problem.at(tuple(size + by for size in problem.in_size), problem.batch + 2)


def lively(problem):
    """The same problem at sizes that are special in no way: not one, and not as small as the padding allows."""
    return problem.at(tuple(max(size, 2) + 1 for size in problem.in_size), max(problem.batch, 2))


def without_padding(problem):
    """The same taps on an input that they never leave."""
    sizes = tuple(max(size, span + 1) for size, span in zip(problem.in_size, problem.span, strict=True))
    plain = replace(problem, padding=((0, 0),) * problem.dim, padding_mode="zeros")
    return plain.at(sizes, 1)


def tensors_of(problem, draw):
    """One tensor for each argument of the family, None for an absent one, made by ``draw(name, shape)``."""
    shapes = family_of(problem).tensors(problem)
    return tuple(None if shape is None else draw(name, shape) for name, shape in shapes.items())


def halves(problem, dtype=torch.float64, *, most=4, seed=0):
    """Multiples of 1/2 up to 2: products and sums of them are exact, and offsets fall between positions."""
    generator = torch.Generator().manual_seed(seed)
    return tensors_of(problem, lambda _, s: (torch.randint(-most, most + 1, s, generator=generator) / 2).to(dtype))


def reals(problem, dtype=torch.float64, *, seed=0):
    """Normal numbers, representable in ``dtype``."""
    generator = torch.Generator().manual_seed(seed)
    return tensors_of(problem, lambda _, s: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))


def positives(problem, dtype=torch.float64, *, seed=0):
    """Numbers between 1/2 and 1 where a larger one gives a larger output, and 0 for biases and offsets."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name, shape):
        if "offset" in name or "bias" in name:
            return torch.zeros(shape, dtype=dtype)
        return (0.5 + 0.5 * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)

    return tensors_of(problem, draw)


def tracked(tensors):
    """Copies of ``tensors`` that gradients are asked of."""
    return tuple(None if t is None else t.detach().clone().requires_grad_() for t in tensors)


def present(tensors):
    """The tensors that are there."""
    return tuple(t for t in tensors if t is not None)


def wide(tensors):
    """``tensors`` in float64."""
    return tuple(None if t is None else t.double() for t in tensors)


def expected(problem, tensors):
    """The family's formula in float64."""
    return family_of(problem).part("reference").reference(problem, *wide(tensors))


def exact(problem):
    """Whether small integers give integers: everywhere except behind an exponential."""
    return family_of(problem).cost(problem).exponentials == 0


def assert_same(problem, actual, want, scale=None):
    """Equal to the last bit, once rounded to the type computed in, where the formula is exact on the data; else close.

    ``scale`` is the size of the terms where they cancel: the gradient of a softmax of equal numbers is 0.
    """
    __tracebackhide__ = True
    if exact(problem):
        assert_equal(actual, want.to(actual.dtype))
    else:
        assert_close(actual, want, terms=None if scale is None else want.abs().clamp(min=scale))
