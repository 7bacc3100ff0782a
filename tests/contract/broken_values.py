# SPDX-License-Identifier: Apache-2.0
"""Kernels that compute something else than the formula."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

import torch
from hypothesis import Phase

from contract.broken import kernel
from contract.problems import exact, family_of
from contract.test_cost import check_field, check_path
from contract.test_determinism import check_repeats, check_threads, check_threads_agree
from contract.test_dtypes import check_accumulation, check_dtype
from contract.test_export_transforms import check_vmap
from contract.test_geometries import check_geometries
from contract.test_gradients import check_gradients
from contract.test_layouts import check_expanded
from contract.test_shapes import check_shape
from contract.test_values import check_values, check_widths, check_writes_everything
from omniconv.core.register import Plan


def changed(plan, **changes):
    """The right plan for other numbers, made without asking whether they are legal."""
    return Plan(replace(plan.problem, **changes))


def taps_of(problem, tensors):
    """The place of the tensor whose last axes are the taps, or None."""
    dim = problem.dim
    for at, (name, tensor) in enumerate(zip(family_of(problem).tensor_names, tensors, strict=True)):
        if name == "weight" and tensor is not None and tuple(tensor.shape[-dim:]) == problem.kernel_size:
            return at
    return None


def has_taps(problem):
    """Whether one tensor is linear in the output and ends in the taps."""
    shapes = family_of(problem).tensors(problem)
    shape = shapes.get("weight")
    return bool(shape) and exact(problem) and tuple(shape[-problem.dim :]) == problem.kernel_size


def same_tensors(problem, **changes):
    """Whether other numbers ask for tensors of the same shapes."""
    try:
        other = replace(problem, **changes)
        other.out_size  # noqa: B018  # raises where there is no output
        return family_of(problem).tensors(other) == family_of(problem).tensors(problem)
    except ValueError:
        return False


def with_weight(tensors, at, weight):
    return (*tensors[:at], weight, *tensors[at + 1 :])


def shifted(problem):
    return tuple((b + 1, a - 1) if a else (b, a) for b, a in problem.padding)


def fixed(problem):
    return all(not isinstance(entry, str) for entry in problem.padding)


@kernel(
    check_values,
    applies=lambda p: fixed(p) and shifted(p) != p.padding and p.padding_mode == "zeros",
)
def shifts_the_padding_by_one(plan, *tensors):
    return changed(plan, padding=shifted(plan.problem))(*tensors)


@kernel(check_values, applies=lambda p: has_taps(p) and p.dim == 2 and p.kernel_size[0] == p.kernel_size[1] > 1)
def reads_the_taps_column_by_column(plan, *tensors):
    at = taps_of(plan.problem, tensors)
    return plan(*with_weight(tensors, at, tensors[at].transpose(-1, -2)))


@kernel(check_values, check_gradients, applies=lambda p: has_taps(p) and max(p.kernel_size) > 1)
def flips_the_taps(plan, *tensors):
    at = taps_of(plan.problem, tensors)
    return plan(*with_weight(tensors, at, tensors[at].flip(list(range(-plan.problem.dim, 0)))))


@kernel(
    check_values,
    check_path,
    check_field,
    applies=lambda p: (
        not p.transposed
        and any(d > 1 and k > 1 for d, k in zip(p.dilation, p.kernel_size, strict=True))
        and fixed(p)
        and same_tensors(p, dilation=(1,) * p.dim, in_size=p.in_size)
    ),
)
def ignores_the_dilation(plan, *tensors):
    output = changed(plan, dilation=(1,) * plan.problem.dim)(*tensors)
    sizes = plan.problem.out_size_of(tuple(tensors[0].shape[2:]))
    return output[(..., *map(slice, sizes))]


@kernel(check_values, applies=lambda p: p.bias)
def drops_the_bias(plan, *tensors):
    named = zip(plan.family.tensor_names, tensors, strict=True)
    return plan(*[torch.zeros_like(t) if n == "bias" else t for n, t in named])


@kernel(check_values, applies=lambda p: 1 < p.groups < p.out_channels and p.out_channels % p.groups == 0)
def deals_outputs_to_groups_in_turn(plan, *tensors):
    return plan(*tensors).unflatten(1, (plan.problem.groups, -1)).transpose(1, 2).flatten(1, 2)


def _heads(problem):
    return int(dict(problem.special).get("heads", 1))


@kernel(check_values, applies=lambda p: 1 < _heads(p) < p.in_channels and "head_layout" not in dict(p.special))
def interleaves_the_heads(plan, input, *rest):
    heads = _heads(plan.problem)
    blocks = input.unflatten(1, (-1, heads)).transpose(1, 2).flatten(1, 2)
    return plan(blocks, *rest).unflatten(1, (heads, -1)).transpose(1, 2).flatten(1, 2)


@kernel(check_values, applies=lambda p: dict(p.special).get("renorm_padding") == 1)
def gives_padding_a_share(plan, *tensors):
    return changed(plan, special=tuple(pair for pair in plan.problem.special if pair[0] != "renorm_padding"))(*tensors)


@kernel(check_values, applies=lambda p: dict(p.special).get("softmax") == 1)
def forgets_the_softmax(plan, *tensors):
    return changed(plan, special=tuple((n, 0 if n == "softmax" else v) for n, v in plan.problem.special))(*tensors)


@kernel(check_values, applies=lambda p: p.padding_mode != "zeros")
def pads_with_zeros_whatever_the_mode(plan, *tensors):
    return changed(plan, padding_mode="zeros")(*tensors)


@kernel(partial(check_geometries, phases=[Phase.generate]), applies=lambda p: not p.transposed, once=True)
def is_wrong_only_where_a_stride_meets_a_dilation(plan, *tensors):
    rare = any(s == 3 and d > 1 for s, d in zip(plan.problem.stride, plan.problem.dilation, strict=True))
    return plan(*tensors) + rare


@kernel(check_widths)
def writes_whole_vectors_of_eight_and_no_rest(plan, *tensors):
    output = plan(*tensors)
    whole = output.shape[-1] // 8 * 8
    return torch.cat([output[..., :whole], torch.zeros_like(output[..., whole:])], dim=-1)


@kernel(check_widths, partial(check_widths, layouts=("channels_last",)), applies=lambda p: p.out_channels > 1)
def computes_whole_vectors_of_eight_channels_and_no_rest(plan, *tensors):
    output = plan(*tensors)
    whole = output.shape[1] // 8 * 8
    return torch.cat([output[:, :whole], torch.zeros_like(output[:, whole:])], dim=1)


@kernel(check_writes_everything)
def leaves_the_last_output_unwritten(plan, *tensors):
    output = plan(*tensors)
    fresh = torch.empty_like(output)
    fresh.flatten()[:-1] = output.flatten()[:-1]
    return fresh


@kernel(partial(check_writes_everything, dtype=torch.float32))
def leaves_the_last_output_unwritten_in_memory_of_its_own(plan, *tensors):
    output = plan(*tensors)
    torch.utils.deterministic.fill_uninitialized_memory = False
    fresh = torch.empty_like(output)
    torch.utils.deterministic.fill_uninitialized_memory = True
    fresh.flatten()[:-1] = output.flatten()[:-1]
    return fresh


@kernel(check_writes_everything)
def finds_what_an_earlier_call_left(plan, *tensors):
    plan.left, before = plan(*tensors).detach(), vars(plan).get("left", 0)
    return plan(*tensors) + 0 * before


@kernel(check_shape)
def is_one_output_short(plan, *tensors):
    return plan(*tensors)[..., :-1]


@kernel(check_vmap, applies=lambda p: p.batch > 1 or p.in_channels > 1)
def subtracts_the_mean_of_the_batch(plan, *tensors):
    output = plan(*tensors)
    return output - output.mean(0, keepdim=True)


@kernel(check_expanded)
def reads_on_where_the_memory_of_an_input_ends(plan, input, *rest):
    span = 1 + sum((size - 1) * step for size, step in zip(input.shape, input.stride(), strict=True))
    held = torch.as_strided(input, (span,), (1,))
    return plan(torch.cat([held, held.new_zeros(input.numel() - span)]).view(input.shape), *rest)


def tap_by_tap(plan, tensors, order, dtype):
    """The sum over single taps in this order, in a dtype."""
    at = taps_of(plan.problem, tensors)
    weight, total = tensors[at], None
    for tap in order:
        alone = torch.zeros_like(weight)
        alone[(..., *tap)] = weight[(..., *tap)]
        part = plan(*with_weight(tensors, at, alone)).to(dtype)
        total = part if total is None else total + part
    return total.to(tensors[0].dtype)


def all_taps(problem):
    return list(product(*map(range, problem.kernel_size)))


def plain_taps(problem):
    """Several taps in one linear tensor that meet in every output, and no bias that each of them would add."""
    several = len(all_taps(problem)) > 2 and max(problem.stride) == 1
    return has_taps(problem) and not problem.bias and several


@kernel(check_accumulation, applies=lambda p: plain_taps(p) and p.dim == 1, once=True)
def sums_in_bfloat16(plan, *tensors):
    return tap_by_tap(plan, tensors, all_taps(plan.problem), torch.bfloat16)


@kernel(partial(check_dtype, dtype=torch.float64), applies=plain_taps)
def sums_float64_in_float32(plan, *tensors):
    return plan(*[t if t is None else t.float() for t in tensors]).to(tensors[0].dtype)


@kernel(check_repeats, applies=plain_taps)
def sums_in_the_order_of_chance(plan, *tensors):
    taps = all_taps(plan.problem)
    return tap_by_tap(plan, tensors, [taps[i] for i in torch.randperm(len(taps))], torch.float32)


@kernel(check_threads, applies=plain_taps, right=None)
def sums_a_part_for_each_thread(plan, *tensors):
    taps = all_taps(plan.problem)
    threads = torch.get_num_threads()
    return sum(tap_by_tap(plan, tensors, taps[i::threads], torch.float32) for i in range(min(threads, len(taps))))


@kernel(check_threads_agree)
def forgets_the_part_of_the_last_thread(plan, input, *rest):
    kept = input.clone()
    kept[:, :, input.shape[2] // torch.get_num_threads() :] = 0
    return plan(kept if torch.get_num_threads() > 1 else input, *rest)
