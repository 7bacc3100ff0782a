# SPDX-License-Identifier: Apache-2.0
"""An explanation as text: each number as letters, as your numbers, and as what they come to."""

from __future__ import annotations

import re

from omniconv.analysis.explanation.result import Explanation, Walk
from omniconv.core.problem import ConvProblem
from omniconv.core.taps import axis_field
from omniconv.report.grid import Line, Span, fields
from omniconv.report.numbers import digits, each, sizes
from omniconv.report.words import say

LETTERS = {
    "N": "batch",
    "C": "in channels",
    "O": "out channels",
    "G": "groups",
    "K": "taps",
    "P": "output positions",
    "I": "input positions",
    "H": "heads",
    "D": "channels of offset and mask",
    "Q": "query channels",
}


def lines(explanation: Explanation, width: int | None = None, lang: str = "en") -> list[Line]:
    """Everything, at most ``width`` cells wide where values allow."""
    setting = explanation.setting
    names = [setting.name, setting.korean] if lang != "ko" else [setting.korean, setting.name]
    found: list[Line] = [(Span(names[0], "standard"), Span(f"  {names[1]}", "dim"), Span(f"  {setting.summary}"))]
    found += [(), *fields(pairs(explanation, lang), width)]
    return found


def pairs(explanation: Explanation, lang: str = "en") -> list[tuple[str, str]]:
    """What is said, each under its name; an empty pair is an empty line."""
    cost, family, problem = explanation.cost, explanation.family, explanation.problem
    about = [
        ("formula", family.formula),
        ("equals", explanation.setting.equals),
        ("source", family.source),
        ("position", _position(explanation)),
        ("", ""),
        *_counts(explanation),
        ("bytes", _bytes(explanation)),
        ("FLOP/byte", f"{cost.flops:,} / {explanation.bytes:,} = {digits(cost.intensity(explanation.itemsize))}"),
        ("output", _output(problem, family.path(problem))),
        ("receptive field", _field(explanation)),
        *((("counted apart", _apart(explanation)),) if _apart(explanation) else ()),
        *(("note", note) for note in cost.notes),
        ("", ""),
        ("kernel", explanation.choice.reason),
        ("proof", "\n".join([*map(_proof, explanation.walks), *_total(explanation)])),
        ("problem", str(problem)),
    ]
    return [(say(name, lang) if name else "", text) for name, text in about if text or not name]


def _position(explanation: Explanation) -> str:
    problem = explanation.problem
    numbers = [f"k{each(problem.kernel_size)}", f"s{each(problem.stride)}", f"p{_padding(problem)}"]
    numbers += [f"d{each(problem.dilation)}"] if any(d > 1 for d in problem.dilation) else []
    numbers += [f"g{problem.groups}"] if problem.groups > 1 else []
    numbers += [f"op{each(problem.output_padding)}"] if any(problem.output_padding) else []
    numbers += [f"{name}={value}" for name, value in problem.special]
    where = f"{problem.in_channels} → {problem.out_channels} channels   {sizes(problem.in_size or ())} → "
    return f"{where}{sizes(explanation.out_size)}   {' '.join(numbers)}   batch {problem.batch}"


def _padding(problem: ConvProblem) -> str:
    texts = [str(b) if b == a else f"{b}:{a}" for b, a in problem.pads()]
    return texts[0] if len(set(texts)) == 1 else "×".join(texts)


def _counts(explanation: Explanation) -> list[tuple[str, str]]:
    steps = explanation.cost.steps
    said = []
    for step in steps:
        prefix = f"{step.name}: " if len(steps) > 1 else ""
        formulas = (step.params, step.macs, step.inputs, step.outputs)
        used = " ".join([formula.text for formula in formulas] + ["O"] * bool(step.bias))
        letters = [(k, v) for k, v in step.macs.letters.items() if re.search(rf"\b{k}\b", used)]
        said.append(("letters", prefix + ", ".join(f"{k}={v:,} {LETTERS.get(k, '')}".rstrip() for k, v in letters)))
    for step in steps:
        prefix = f"{step.name}: " if len(steps) > 1 else ""
        bias = f", and {step.bias:,} of the bias" if step.bias else ""
        said.append(("params", f"{prefix}{_worked(step.params.symbols, step.params.numbers, step.params.value)}{bias}"))
    if len(steps) > 1:
        said.append(("params", _sum([step.params.value + step.bias for step in steps], explanation.params)))
    for step in steps:
        prefix = f"{step.name}: " if len(steps) > 1 else ""
        said.append(("MACs", f"{prefix}{_worked(step.macs.symbols, step.macs.numbers, step.macs.value)}"))
    if len(steps) > 1:
        said.append(("MACs", _sum([step.macs.value for step in steps], explanation.macs)))
    return _once(said)


def _once(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs with every name at its first line only; the lines below it hang under it."""
    gathered: dict[str, list[str]] = {}
    for name, text in pairs:
        gathered.setdefault(name, []).append(text)
    return [(name, "\n".join(texts)) for name, texts in gathered.items()]


def _worked(symbols: str, numbers: str, value: int) -> str:
    if symbols == f"{value:,}":
        return symbols
    return f"{symbols} = {numbers} = {value:,}" if numbers != f"{value:,}" else f"{symbols} = {value:,}"


def _sum(parts: list[int], total: int) -> str:
    return f"{' + '.join(f'{part:,}' for part in parts)} = {total:,}"


def _bytes(explanation: Explanation) -> str:
    symbols, numbers = [], []
    for step in explanation.cost.steps:
        bias = [step.bias] if step.bias else []
        symbols.append(
            " + ".join([step.inputs.symbols, step.params.symbols, *("O" for _ in bias), step.outputs.symbols])
        )
        parts = [step.inputs.value, step.params.value, *bias, step.outputs.value]
        numbers.append(" + ".join(f"{part:,}" for part in parts))
    size = explanation.itemsize
    names = [f"{step.name}: " if len(symbols) > 1 else "" for step in explanation.cost.steps]
    lines = [f"{name}{size}·({s}) = {size}·({n})" for name, s, n in zip(names, symbols, numbers, strict=True)]
    if len(lines) == 1:
        return f"{lines[0]} = {explanation.bytes:,}"
    sums = [size * step.elements for step in explanation.cost.steps]
    lines = [f"{line} = {each:,}" for line, each in zip(lines, sums, strict=True)]
    return "\n".join([*lines, _sum(sums, explanation.bytes)])


def _output(problem: ConvProblem, path: tuple[ConvProblem, ...]) -> str:
    """The size rule with its numbers, once for axes that agree."""
    if problem.in_size is None:
        return ""
    worked = []
    for axis, (size, out) in enumerate(zip(problem.in_size, problem.out_size, strict=True)):
        k, s, d = problem.kernel_size[axis], problem.stride[axis], problem.dilation[axis]
        before, after = problem.pads()[axis]
        if problem.transposed:
            extra = problem.appended[axis]
            worked.append(f"({size}−1)·{s} + {d}·({k}−1) + 1 + {extra} − {before} − {after} = {out}")
        else:
            worked.append(f"⌊({size} + {before} + {after} − {d}·({k}−1) − 1)/{s}⌋ + 1 = {out}")
    rule = (
        "(i−1)·s + d·(k−1) + 1 + appended − before − after"
        if problem.transposed
        else "⌊(i + before + after − d·(k−1) − 1)/s⌋ + 1"
    )
    return "\n".join([rule, *(f"= {text}" for text in dict.fromkeys(worked))])


def _field(explanation: Explanation) -> str:
    path = explanation.family.path(explanation.problem)
    worked = []
    for axis in range(explanation.problem.dim):
        terms, size, jump = [], 1, 1
        for problem in path:
            own = axis_field(problem, axis)
            if own.size != 1:
                terms.append(f"({own.size}−1)" + (f"·{jump}" if jump != 1 else ""))
                size += int((own.size - 1) * jump)
            jump = jump * own.stride  # type: ignore[assignment]
        worked.append(" + ".join(["1", *terms]) + f" = {size}" if terms else "1")
    text = f"{sizes(explanation.receptive_field)}: " + ", ".join(dict.fromkeys(worked))
    if any(problem.transposed for problem in path):
        text += "; taps a stride apart meet in one output"
    why = explanation.family.unbounded(explanation.problem)
    return f"{text}; {why}" if why else text


def _apart(explanation: Explanation) -> str:
    """What is not among the MACs."""
    cost = explanation.cost
    named = (
        (cost.bias_adds, "additions of the bias"),
        (cost.sampling, "multiply-adds of bilinear sampling"),
        (cost.exponentials, "exponentials of the softmax"),
    )
    return ", ".join(f"{value:,} {name}" for value, name in named if value)


def _proof(walk: Walk) -> str:
    step, count = walk.step, walk.count
    if count is None:
        return f"{step.name}: not walked by a loop; the formula says {step.macs.value:,}"
    verdict = "as the formula says" if walk.holds else f"BUT THE FORMULA SAYS {step.macs.value:,}"
    visited = f"a loop visits {count.walked:,} positions and taps for each of {count.pairs:,} pairs of channels"
    batch = f", {step.walk.batch} times" if step.walk is not None and (step.walk.batch or 1) > 1 else ""
    return f"{step.name}: {visited}{batch}: {count.all_taps:,} products, {verdict}; {count.on_data:,} touch data"


def _total(explanation: Explanation) -> list[str]:
    """The sum of several steps, and what no loop has walked."""
    if len(explanation.walks) < 2:
        return []
    counted = sum(walk.count.all_taps for walk in explanation.walks if walk.count)
    rest = sum(walk.step.macs.value for walk in explanation.walks if walk.count is None)
    if rest:
        return [f"in all {counted:,} counted + {rest:,} not walked = {counted + rest:,}"]
    return [f"in all {counted:,} counted; the formula says {explanation.macs:,}"]
