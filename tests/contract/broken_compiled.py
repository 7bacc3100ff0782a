# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a compiled kernel alone: in one type, in one layout, with so many threads, by its name."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import torch
from hypothesis import Phase

from contract.broken import kernel, thing
from contract.broken_habits import channels_inside
from contract.problems import ByName, exact, family_of
from contract.test_compile import check_compiles, check_operator
from contract.test_determinism import check_threads
from contract.test_export_transforms import check_export, check_vmap
from contract.test_geometries import check_laid_geometries, check_usual_shapes
from contract.test_gradients import check_gradients, check_second_gradients
from contract.test_layouts import check_format, check_layout
from contract.test_shapes import check_without_data
from contract.test_values import check_rounding, check_values
from omniconv.core.choose import choose
from omniconv.core.native import Native
from omniconv.core.register import _NATIVE, Plan

LIBRARY = torch.library.Library("omniconv", "FRAGMENT")
LOW, FULL = torch.bfloat16, torch.float32


def is_compiled(problem):
    return choose(problem).kernel.compiled


def only(*checks, applies=is_compiled, **options):
    return kernel(*checks, applies=applies, **options)


@only(partial(check_values, dtype=LOW), partial(check_layout, layout="strided", dtype=LOW))
def is_wrong_only_in_bfloat16(plan, *tensors):
    output = plan(*tensors)
    return output + (output.dtype == LOW)


@only(partial(check_rounding, dtype=LOW), applies=lambda p: is_compiled(p) and exact(p))
def cuts_bits_off_instead_of_rounding(plan, *tensors):
    output = plan(*[t if t is None else t.float() for t in tensors])
    return (output.view(torch.int32) & ~0xFFFF).view(FULL).to(tensors[0].dtype)


@only(partial(check_laid_geometries, phases=[Phase.generate]), once=True)
def is_wrong_only_for_a_stride_of_three_in_channels_last(plan, input, *rest):
    return plan(input, *rest) + (channels_inside(input) and 3 in plan.problem.stride)


@only(partial(check_usual_shapes, dtype=FULL))
def is_wrong_in_a_loop_for_three_taps(plan, *tensors):
    return plan(*tensors) + (set(plan.problem.kernel_size) == {3} and max(plan.problem.in_size) > 32)


@only(partial(check_threads, dtype=LOW), partial(check_threads, layout="channels_last"), right=None)
def rounds_as_often_as_there_are_threads(plan, *tensors):
    threads = torch.get_num_threads()
    return sum(plan(*[t if t is None else t / threads for t in tensors]) * threads for _ in range(threads))


class Parted(torch.autograd.Function):
    """The identity with a gradient that is a little larger for each thread."""

    @staticmethod
    def forward(_, value):
        return value.clone()

    @staticmethod
    def backward(_, grad):
        return grad * (1 + torch.get_num_threads() * 2**-20)


@only(
    partial(check_gradients, dtype=FULL),
    applies=lambda p: is_compiled(p) and dict(p.special).get("softmax") == 1 and not p.get("renorm_padding", 0),
)
def leaves_the_softmax_out_of_the_gradient(plan, input, weight, *rest):
    problem = plan.problem
    raw = Plan(replace(problem, special=tuple((n, 0 if n == "softmax" else v) for n, v in problem.special)))
    return plan(input, weight.detach(), *rest) + raw(input, weight, *rest) - raw(input, weight.detach(), *rest)


@only(check_threads)
def has_gradients_that_depend_on_the_threads(plan, *tensors):
    return Parted.apply(plan(*tensors))


class Idle(Plan):
    """A plan that leaves its compiled kernel alone where a graph is made."""

    def __init__(self, problem):
        super().__init__(problem)
        self._native = copy.copy(self._native)
        self._native.takes = lambda tensor, leaves: False


@thing(check_compiles, "plan_for", Plan, applies=is_compiled, once=True)
def leaves_its_kernel_out_of_the_graph(problem):
    return Idle(problem)


@thing(check_export, "plan_for", Plan, applies=is_compiled, once=True)
def exports_what_no_other_program_has(problem):
    return ByName(problem)


class Again(Native):
    """The operators of a compiled kernel once more, under the name of the class, computed by the right ones."""

    def __init__(self, problem):
        family, kernel = family_of(problem), choose(problem).kernel
        right, name = _NATIVE[family.name, kernel.name], type(self).__name__
        super().__init__(family, replace(kernel, name=name), right.universal, LIBRARY)
        for end in ("", "_raw"):
            LIBRARY.impl(f"{family.name}_{name}{end}", lambda *arguments: self.laid(right.raw(*arguments)), "CPU")
            LIBRARY.impl(f"{family.name}_{name}_backward{end}", right.raw_backward, "CPU")

    def laid(self, output):
        return output


class Renamed(ByName):
    """A plan that calls the operators of a class by their name."""

    defined = {}  # noqa: RUF012  # an operator is defined once a process

    def __init__(self, kind, problem):
        super().__init__(problem)
        if (kind, problem.family) not in self.defined:
            self.defined[kind, problem.family] = kind(problem)
        self._native = self.defined[kind, problem.family]


def operators(*checks):
    """Register a class of operators with a fault in it."""

    def add(kind):
        def wrong(problem):
            return Renamed(kind, problem)

        wrong.__name__ = kind.__doc__.rstrip(".").lower()
        for check in checks:
            thing(check, "plan_for", partial(Renamed, Again), applies=is_compiled)(wrong)
        return kind

    return add


@operators(
    partial(check_without_data, layout="channels_last"),
    partial(check_operator, layout="channels_last"),
    partial(check_compiles, layout="channels_last"),
)
class Ordered(Again):
    """Says that its output lies in order whatever it is given."""

    def _fake(self, input, *rest):
        return input.new_empty(super()._fake(input, *rest).shape)


@operators(check_format, partial(check_without_data, layout="channels_last"))
class Straight(Again):
    """Lays its output in order whatever it is given."""

    def laid(self, output):
        return output.contiguous()


@operators(check_operator)
class Full(Again):
    """Says that gradients come which nobody asked for."""

    def _fake_backward(self, grad, *arguments):
        *tensors, numbers, _ = arguments
        wanted = sum(1 << at for at, tensor in enumerate(tensors) if tensor is not None)
        return super()._fake_backward(grad, *tensors, numbers, wanted)


@operators(partial(check_gradients, dtype=FULL), partial(check_layout, layout="strided", dtype=LOW))
class Doubled(Again):
    """Gives the gradient of the input twice as large."""

    def _differentiate(self, ctx, grad):
        first, *rest = super()._differentiate(ctx, grad)
        return 2 * first, *rest


@operators(partial(check_second_gradients, dtype=FULL))
class Forgetful(Again):
    """Forgets that gradients depend on the gradient of the output."""

    def _differentiate_twice(self, ctx, *grads):
        first, *rest = super()._differentiate_twice(ctx, *grads)
        return 0 * first, *rest


@operators(partial(check_vmap, dtype=FULL))
class Repeated(Again):
    """Computes the first sample of a map for all of them."""

    def _mapped(self, info, in_dims, *arguments):
        output, dim = super()._mapped(info, in_dims, *arguments)
        return output[:1].expand(output.shape), dim
