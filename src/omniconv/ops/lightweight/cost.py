# SPDX-License-Identifier: Apache-2.0
"""Cost, tensor shapes and special numbers of a lightweight convolution."""

from __future__ import annotations

from dataclasses import replace

from omniconv.core.cost import Cost, letters_of, step_of
from omniconv.core.family import Position
from omniconv.core.numbers import divisors, integer, must_divide, one_of
from omniconv.core.problem import ConvProblem

HEAD_LAYOUTS = ("block", "interleaved")


def check_channels(channels: int, out_channels: int) -> None:
    """Raise unless there are as many channels out as in."""
    if out_channels != channels:
        raise ValueError(f"`out_channels` (={out_channels}) must be `in_channels` (={channels}); use {channels}.")


def check_heads(problem: ConvProblem, known: tuple[str, ...]) -> None:
    """Raise unless each channel meets itself alone, the heads divide the channels, and nothing unknown is asked."""
    given = dict(problem.special)
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"`{name}` (={value}) is not known to this family; use {', '.join(known)}.")
    for name in ("heads", "softmax"):
        if name not in given:
            raise ValueError(f"`{name}` is missing in the problem; write `{name}=1`.")
    c = problem.in_channels
    check_channels(c, problem.out_channels)
    must_divide("heads", integer("heads", given["heads"], 1), "channels", c)
    if problem.groups != c:
        raise ValueError(f"`groups` (={problem.groups}) must be the number of channels (={c}); use {c}.")
    if problem.transposed:
        raise ValueError("`transposed` (=True) must be False in this family; use False.")


def check_flag(problem: ConvProblem, name: str) -> None:
    """Raise unless the special number ``name`` is 0 or 1."""
    value = problem.get(name, 0)
    if value not in (0, 1):
        raise ValueError(f"`{name}` (={value}) must be 0 or 1 in a problem; use 0 or 1.")


def check(problem: ConvProblem) -> None:
    """Raise where the special numbers break the rules of this family."""
    check_heads(problem, ("heads", "softmax", "head_layout"))
    check_flag(problem, "softmax")
    one_of("head_layout", problem.get("head_layout", "block"), HEAD_LAYOUTS)


def nearest_heads(position: Position) -> tuple[Position, str] | None:
    """The nearest position with as many channels out as in, and with heads that divide them."""
    c = position.in_channels
    notes = []
    if position.out_channels != c:
        notes.append(f"needs out = in; shown at {c} → {c}")
    heads = min(divisors(c), key=lambda h: (abs(h - position.heads), h))
    if heads != position.heads:
        notes.append(f"{position.heads} heads do not divide {c} channels; shown with {heads}")
    return (replace(position, out_channels=c, heads=heads), "; ".join(notes)) if notes else None


def tensors(problem: ConvProblem) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the tensor arguments for a problem with a known input size."""
    c = problem.in_channels
    return {
        "input": (problem.batch or 0, c, *(problem.in_size or ())),
        "weight": (problem.number("heads"), *problem.kernel_size),
        "bias": (c,) if problem.bias else None,
    }


def cost(problem: ConvProblem) -> Cost:
    """Each of P outputs of each of C channels meets K taps; the taps of H heads are all that is held."""
    step = step_of(
        "lightweight convolution",
        letters_of(problem) | {"H": problem.number("heads")},
        params="H*K",
        macs="N*P*C*K",
        inputs="N*C*I",
        outputs="N*C*P",
        bias="C" if problem.bias else "0",
        bias_adds="N*P*C" if problem.bias else "0",
        exponentials="H*K" if problem["softmax"] else "0",
        walk=problem,
    )
    return Cost(problem, (step,))
