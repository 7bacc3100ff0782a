# SPDX-License-Identifier: Apache-2.0
"""Cost, tensor shapes and special numbers of a dynamic convolution, with or without what predicts its kernels."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from omniconv.core.cost import Cost, Step, letters_of, step_of
from omniconv.core.numbers import integer, one_of
from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.cost import cost as conv_cost
from omniconv.ops.lightweight.cost import check_flag, check_heads

CONTEXTS = ("position", "sequence")
FLAGS = ("softmax", "renorm_padding", "predictor", "predictor_bias", "in_proj")


def for_all_positions(problem: ConvProblem) -> bool:
    """Whether one kernel serves all positions of a sequence."""
    return problem.get("context", "position") == "sequence"


def query_channels(problem: ConvProblem) -> int:
    """Channels that the kernels are predicted from."""
    return integer("query", problem.get("query", 0), 0) or problem.in_channels


def check(problem: ConvProblem) -> None:
    """Raise where the special numbers break the rules of this family."""
    check_heads(problem, ("heads", *FLAGS, "query", "context"))
    for name in FLAGS:
        check_flag(problem, name)
    one_of("context", problem.get("context", "position"), CONTEXTS)
    query_channels(problem)
    if problem.get("renorm_padding", 0):
        if not problem["softmax"]:
            raise ValueError("`renorm_padding` (=True) must be False without softmax; use softmax=True.")
        if problem.padding_mode != "zeros":
            raise ValueError(
                f"`renorm_padding` (=True) must be False where padding holds data (`padding_mode` "
                f"={problem.padding_mode!r}); use padding_mode='zeros'."
            )
    if problem.get("predictor", 0):
        if not problem.get("query", 0) and not for_all_positions(problem):
            _check_positions(problem)
        return
    for name in ("predictor_bias", "in_proj", "query"):
        if problem.get(name, 0):
            raise ValueError(f"`{name}` (={problem[name]}) belongs to a predictor; write `predictor=1`.")


def _check_positions(problem: ConvProblem) -> None:
    for axis, (entry, span) in enumerate(zip(problem.padding, problem.span, strict=True)):
        if not isinstance(entry, str) and sum(entry) > span - 1:
            raise ValueError(
                f"`padding` (={entry}) on spatial axis {axis} makes outputs that have no input position of their own "
                f"to predict a kernel from; use a total of d(k-1) = {span - 1} or less."
            )


def tensors(problem: ConvProblem) -> dict[str, tuple[int, ...] | None]:
    """Shapes of the tensor arguments for a problem with a known input size."""
    n, c = problem.batch or 0, problem.in_channels
    positions = (1,) * problem.dim if for_all_positions(problem) else problem.out_size
    return {
        "input": (n, c, *(problem.in_size or ())),
        "weight": (n, problem.number("heads"), *problem.kernel_size, *positions),
        "bias": (c,) if problem.bias else None,
    }


def predictor(problem: ConvProblem) -> ConvProblem:
    """The pointwise convolution that predicts H·K numbers at each output position, or once for a sequence."""
    positions = (1,) * problem.dim if for_all_positions(problem) else problem.out_size
    outputs = problem.number("heads") * prod(problem.kernel_size)
    biased = bool(problem.get("predictor_bias", 0))
    return _pointwise(problem, query_channels(problem), outputs, biased, positions)


def cost(problem: ConvProblem) -> Cost:
    """Each of P outputs of each of C channels meets K taps, after Q·H·K products for each predicted kernel."""
    letters = letters_of(problem) | {"H": problem.number("heads"), "Q": query_channels(problem)}
    kernels = "N*H*K" if for_all_positions(problem) else "N*H*K*P"
    step = step_of(
        "dynamic convolution",
        letters,
        params="0",
        macs="N*P*C*K",
        inputs=f"N*C*I+{kernels}",
        outputs="N*C*P",
        bias="C" if problem.bias else "0",
        bias_adds="N*P*C" if problem.bias else "0",
        exponentials=kernels if problem["softmax"] else "0",
        walk=problem,
    )
    if not problem.get("predictor", 0):
        return Cost(problem, (step,))
    steps: tuple[Step, ...] = ()
    if problem.get("in_proj", 0):
        c = problem.in_channels
        steps += conv_cost(_pointwise(problem, c, c, True, problem.in_size or ()), "input projection").steps
    if for_all_positions(problem):
        steps += (step_of("mean over positions", letters, params="0", macs="0", inputs="N*Q*I", outputs="N*Q"),)
    return Cost(problem, (*steps, *conv_cost(predictor(problem), "predictor").steps, step))


def _pointwise(problem: ConvProblem, c: int, o: int, bias: bool, in_size: tuple[int, ...]) -> ConvProblem:
    return ConvProblem.of("conv", problem.dim, c, o, 1, bias=bias, in_size=in_size, batch=problem.batch)


def given_problem(problem: ConvProblem) -> ConvProblem:
    """The same problem with its kernels given: what the operator computes."""
    own = ("context", "heads", "renorm_padding", "softmax")
    return replace(problem, special=tuple((name, value) for name, value in problem.special if name in own))


def normalized_problem(problem: ConvProblem) -> ConvProblem:
    """The same problem on given kernels that are normalised already; renormed ones differ from position to position."""
    own = ("heads",) if problem.get("renorm_padding", 0) else ("context", "heads")
    kept = tuple((name, value) for name, value in problem.special if name in own)
    return replace(problem, special=(*kept, ("softmax", 0)))
