# SPDX-License-Identifier: Apache-2.0
"""Plans, strings, costs, layers and functions that are wrong around a right kernel."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial, wraps

import torch

from contract.broken import thing, trial
from contract.calls import functions_for
from contract.problems import family_of, grown
from contract.test_compile import check_function_compiles, check_layer_compiles
from contract.test_cost import check_batch, check_elements, check_macs, check_params
from contract.test_dtypes import check_refuses_dtypes
from contract.test_errors import check_errors, check_too_small
from contract.test_layers import check_function, check_layer, check_layer_moves, check_layer_trains
from contract.test_settings import check_setting
from contract.test_shapes import check_empty_axis, check_fixed_numbers, check_string, check_unbatched
from omniconv.core.cost import Formula
from omniconv.core.register import Plan
from omniconv.core.taps import count_products


def _needs_more_than_one(problem):
    try:
        problem.out_size_of((1,) * problem.dim)
    except ValueError:
        return True
    return False


class Careless(Plan):
    """A plan that hands its tensors to the kernel as they come."""

    def __call__(self, *tensors):
        return self._run(*tensors, *self._arguments(tensors))


@thing(check_errors, "plan_for", Plan)
def leaves_the_checks_to_the_kernel(problem):
    return Careless(problem)


class Vague(Plan):
    """A plan whose errors do not say which argument they mean."""

    def __call__(self, *tensors):
        try:
            return super().__call__(*tensors)
        except (TypeError, ValueError) as error:
            raise type(error)("the arguments do not fit; use others.") from error


@thing(check_errors, "plan_for", Plan)
@thing(check_too_small, "plan_for", Plan, applies=_needs_more_than_one)
def names_no_argument_in_its_errors(problem):
    return Vague(problem)


class Lenient(Plan):
    """A plan that makes tensors of any dtype and size fit."""

    def __call__(self, input, *rest):
        rest = [t if t is None else t.double() for t in rest]
        least = next(n for n in range(1, 60) if self._takes(n))
        room = [n for size in reversed(input.shape[2:]) for n in (0, max(least - size, 0))]
        return super().__call__(torch.nn.functional.pad(input.double(), room), *rest)

    def _takes(self, size):
        try:
            self.problem.out_size_of((size,) * self.problem.dim)
        except ValueError:
            return False
        return True


def _same_tensors_at_any_size(problem):
    other = family_of(problem).tensors(grown(problem))
    here = family_of(problem).tensors(problem)
    return all(other[name] == shape for name, shape in here.items() if name != "input")


def _can_be_padded(problem):
    return _needs_more_than_one(problem) and _same_tensors_at_any_size(problem)


@thing(check_refuses_dtypes, "plan_for", Plan)
@thing(check_too_small, "plan_for", Plan, applies=_can_be_padded)
@thing(check_empty_axis, "plan_for", Plan, applies=_same_tensors_at_any_size)
def makes_what_it_is_given_fit(problem):
    return Lenient(problem)


class KeepsBatch(Plan):
    """A plan that gives a batch to an input without one."""

    def __call__(self, *tensors):
        output = super().__call__(*tensors)
        return output if output.dim() == self.problem.dim + 2 else output.unsqueeze(0)


@thing(check_unbatched, "plan_for", Plan)
def gives_a_batch_to_an_input_without_one(problem):
    return KeepsBatch(problem)


@thing(check_fixed_numbers, "plan_for", Plan, applies=lambda p: not p.fixed_pads)
def fixes_a_padding_that_depends_on_the_size(problem):
    plan = Plan(problem)
    plan._numbers = plan.family.numbers(problem, tuple(size + 1 for size in problem.in_size))
    return plan


@trial(check_string, applies=lambda p: any(s > 1 for s in p.stride))
def leaves_the_stride_out_of_the_string(problem):
    check_string(problem, lambda p: re.sub(r"_s\d[\dx]*", "", str(p)))


def layer_of(problem, device=None, dtype=None):
    return family_of(problem).layer_of(problem, device, dtype)


def cost_of(problem):
    return family_of(problem).cost(problem)


def _has_groups(step):
    return "//G" in step.macs.text and step.macs.letters["G"] > 1


def edited(problem, change, field="macs"):
    """The right cost with one formula of every step rewritten."""
    cost = cost_of(problem)
    steps = []
    for step in cost.steps:
        formula = getattr(step, field)
        steps.append(replace(step, **{field: Formula(change(formula.text), formula.letters)}))
    return replace(cost, steps=tuple(steps))


@thing(check_macs, "cost_of", cost_of, applies=lambda p: any(map(_has_groups, cost_of(p).steps)))
def forgets_the_groups(problem):
    return edited(problem, lambda text: text.replace("//G", ""))


@thing(check_macs, "cost_of", cost_of, applies=lambda p: p.transposed and max(p.stride) > 1)
def counts_a_transposed_convolution_on_its_outputs(problem):
    return edited(problem, lambda text: text.replace("I", "P"))


@thing(check_macs, "cost_of", cost_of, applies=lambda p: p.bias)
def counts_the_bias_among_the_products(problem):
    return edited(problem, lambda text: text + "+N*P*O")


@thing(
    check_macs,
    "cost_of",
    cost_of,
    applies=lambda p: p.padding_mode == "zeros" and not p.transposed and any(map(any, p.pads(p.in_size))),
)
def counts_only_products_on_data(problem):
    cost = cost_of(problem)
    kept = [s if s.walk is None else count_products(s.walk).on_data for s in cost.steps]
    macs = [s if s is k else replace(s, macs=Formula(str(k), {})) for s, k in zip(cost.steps, kept, strict=True)]
    return replace(cost, steps=tuple(macs))


@thing(partial(check_elements, plan_for=Plan), "cost_of", cost_of, applies=lambda p: len(cost_of(p).steps) > 1)
def forgets_the_last_step(problem):
    return replace(cost_of(problem), steps=cost_of(problem).steps[:-1])


@thing(partial(check_elements, plan_for=Plan), "cost_of", cost_of)
def forgets_what_is_written(problem):
    return edited(problem, lambda text: text + "-1", "outputs")


@thing(check_batch, "cost_of", cost_of)
def forgets_the_batch(problem):
    return edited(problem, lambda text: text.replace("N*", ""))


@thing(partial(check_params, layer_of=layer_of), "cost_of", cost_of)
def counts_a_parameter_twice(problem):
    return edited(problem, lambda text: text + "+1", "params")


def has_parameters(problem):
    return any(True for _ in layer_of(problem).parameters())


layers = partial(thing, argument="layer_of", right=layer_of, applies=has_parameters)


@layers(check_layer)
def keeps_its_weights_out_of_the_state_dict(problem, device=None, dtype=None):
    layer = layer_of(problem)
    for module in layer.modules():
        for name in [n for n, p in module._parameters.items() if p is not None]:
            module.__dict__[name] = module._parameters.pop(name).detach() + torch.rand(1)
    return layer


@layers(check_layer)
def cannot_be_pickled(problem, device=None, dtype=None):
    layer = layer_of(problem)
    layer.note = lambda: None
    return layer


@layers(check_layer)
def draws_its_weights_from_a_seed_of_its_own(problem, device=None, dtype=None):
    layer = layer_of(problem)
    generator = torch.Generator()
    generator.seed()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator))
    return layer


@layers(check_layer_moves)
def ignores_the_dtype_asked_for(problem, device=None, dtype=None):
    return layer_of(problem, device)


@layers(check_layer_moves)
def ignores_the_device_asked_for(problem, device=None, dtype=None):
    return layer_of(problem, dtype=dtype)


@layers(check_layer_trains)
def freezes_its_weights(problem, device=None, dtype=None):
    layer = layer_of(problem)
    next(layer.parameters()).requires_grad_(requires_grad=False)
    return layer


@layers(check_layer_compiles, once=True)
def prints_while_it_computes(problem, device=None, dtype=None):
    layer = layer_of(problem)
    layer.register_forward_pre_hook(lambda module, arguments: torch._dynamo.graph_break())
    return layer


@trial(check_setting)
def bears_the_name_of_another_setting(problem):
    check_setting(problem, replace(family_of(problem).setting_of(problem), name="another"))


def a_function(problem):
    return next(functions_for(problem), None)


@trial(check_function, applies=lambda p: p.bias and a_function(p) is not None)
def ignores_the_bias_it_is_given(problem):
    function = a_function(problem)

    @wraps(function)
    def wrong(*args, bias=None, **kwargs):
        return function(*args, bias=torch.zeros_like(bias), **kwargs)

    check_function(problem, wrong)


@trial(check_function_compiles, applies=lambda p: a_function(p) is not None, once=True)
def looks_at_its_input_on_the_way(problem):
    function = a_function(problem)

    @wraps(function)
    def wrong(input, *args, **kwargs):
        return function(input * float(input.sum() != 7), *args, **kwargs)

    check_function_compiles(problem, wrong)
