# SPDX-License-Identifier: Apache-2.0
"""Operators that are not what they say: another fake, a gradient that is missing, an input that is changed."""

from __future__ import annotations

import pytest
import torch

from contract.broken import trial
from contract.test_compile import check_operator
from omniconv.core.register import Plan

LIBRARY = torch.library.Library("omniconv_broken", "DEF")


class Operated(Plan):
    """A plan whose operator is defined anew, by a computation and a fake, with or without a gradient."""

    def __init__(self, problem, name, compute, fake, *, gradient=True):
        super().__init__(problem)
        self._native, self._quick, self.right = None, False, Plan(problem)
        self.count = len(self.family.tensor_names)
        qualified = f"omniconv_broken::{name}_{problem.family}"
        LIBRARY.define(f"{name}_{problem.family}{self.family.schema}")
        LIBRARY.impl(f"{name}_{problem.family}", lambda *a: compute(self.right(*a[: self.count]), *a), "CPU")
        torch.library.register_fake(qualified, lambda *a: fake(self.empty(*a)), lib=LIBRARY)
        if gradient:
            torch.library.register_autograd(
                qualified,
                self.backward,
                setup_context=lambda context, inputs, output: self.keep(context, inputs),
                lib=LIBRARY,
            )
        self._operator = getattr(torch.ops.omniconv_broken, f"{name}_{problem.family}").default

    def empty(self, input, *rest):
        return input.new_empty(
            input.shape[0], self.problem.out_channels, *self.problem.out_size_of(tuple(input.shape[2:]))
        )

    def keep(self, context, inputs):
        context.save_for_backward(*inputs[: self.count])
        context.others = len(inputs) - self.count

    def backward(self, context, grad):
        leaves = [None if t is None else t.detach().requires_grad_() for t in context.saved_tensors]
        with torch.enable_grad():
            output = self.right(*leaves)
        left = iter(torch.autograd.grad(output, [t for t in leaves if t is not None], grad))
        return *[None if t is None else next(left) for t in leaves], *[None] * context.others


def rejected(problem, which, *args, **kwargs):
    """Run the check, and let only a rejection by the part of it that ought to see the fault pass for one."""
    with pytest.raises(AssertionError, match=which) as caught:
        check_operator(problem, lambda p: Operated(p, *args, **kwargs))
    raise caught.value


@trial(check_operator, once=True)
def has_a_fake_of_another_shape(problem):
    rejected(problem, "test_faketensor", "shape", lambda y, *a: y.clone(), lambda y: y.new_empty(*y.shape[:-1], 99))


@trial(check_operator, once=True)
def has_a_fake_of_another_dtype(problem):
    rejected(problem, "test_faketensor", "dtype", lambda y, *a: y.clone(), lambda y: y.double())


@trial(check_operator, applies=lambda p: p.dim == 2 and p.out_channels > 1, once=True)
def has_a_fake_of_other_strides(problem):
    rejected(
        problem,
        "test_faketensor",
        "strides",
        lambda y, *a: y.clone(memory_format=torch.channels_last),
        lambda y: y,
    )


@trial(check_operator, once=True)
def has_no_gradient(problem):
    rejected(problem, "test_autograd_registration", "gradient", lambda y, *a: y.clone(), lambda y: y, gradient=False)


@trial(check_operator, once=True)
def changes_an_input_without_a_word(problem):
    def compute(y, input, *rest):
        input.add_(1)
        return y.clone()

    rejected(problem, "test_schema", "mutation", compute, lambda y: y)
