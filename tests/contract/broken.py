# SPDX-License-Identifier: Apache-2.0
"""What a broken thing is: a kernel, a plan, a cost or a layer made wrong on purpose, and the check that rejects it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from contract.problems import CHOSEN
from omniconv.core.family import family_of
from omniconv.core.register import Plan

BROKEN = []
# Large enough to show a fault: positions that are not all border, more than one tap, and somebody in the batch.
SHOWN = [
    case.problem
    for case in sorted(CHOSEN, key=lambda case: case.size)
    if case.problem.batch and min(case.problem.in_size) > 3 and max(case.problem.kernel_size) > 1
]


@dataclass(frozen=True)
class Broken:
    """One wrong thing and one check that must reject it.

    Attributes:
        name: what is wrong with it.
        check: the check.
        attempt: runs the check on the wrong thing, made for a problem.
        control: runs the check on the right thing.
        applies: whether the wrong thing differs from the right one on a problem.
        once: whether one family shows enough, because the check is slow.
        raises: the errors that count as a rejection.
    """

    name: str
    check: str
    attempt: Callable
    control: Callable
    applies: Callable
    once: bool
    raises: type | tuple = AssertionError

    def __str__(self):
        return f"{self.name}-{self.check}"

    def problems(self):
        """The smallest problem of each family that the wrong thing applies to; of one family if that is enough."""
        found = {}
        for problem in SHOWN:
            if problem.family not in found and self.applies(problem):
                found[problem.family] = problem
        return list(found.values())[: 1 if self.once else None]


def always(problem):
    return True


class WrongPlan(Plan):
    """A plan that checks its tensors as every plan does, and then computes with a wrong kernel."""

    def __init__(self, compute, problem):
        super().__init__(problem)
        count = len(family_of(problem).tensor_names)
        self.right = Plan(problem)
        self._native, self._quick = None, False
        self._run = self._operator = lambda *arguments: compute(self.right, *arguments[:count])


def kernel(*checks, applies=always, once=False, raises=AssertionError, right=Plan):
    """Register a wrong kernel: a function of the right plan and the tensors, rejected by ``checks``."""

    def add(compute):
        for check in checks:
            _add(
                compute,
                check,
                partial(check, plan_for=partial(WrongPlan, compute)),
                right,
                "plan_for",
                applies,
                once,
                raises,
            )
        return compute

    return add


def thing(check, argument, right, applies=always, once=False):
    """Register a wrong value of ``argument``: a function of a problem that the check rejects, beside the right one."""

    def add(wrong):
        _add(wrong, check, partial(check, **{argument: wrong}), right, argument, applies, once)
        return wrong

    return add


def trial(check, applies=always, once=False):
    """Register a function of a problem that runs ``check`` on a wrong thing of its own."""

    def add(attempt):
        BROKEN.append(Broken(attempt.__name__.replace("_", " "), check.__name__, attempt, always, applies, once))
        return attempt

    return add


def _add(function, check, attempt, right, argument, applies, once, raises=AssertionError):
    name = function.__name__.replace("_", " ")
    control = always if right is None else partial(check, **{argument: right})
    label = check.func.__name__ if isinstance(check, partial) else check.__name__
    BROKEN.append(Broken(name, label, attempt, control, applies, once, raises))
