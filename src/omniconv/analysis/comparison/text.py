# SPDX-License-Identifier: Apache-2.0
"""A comparison as text: what was asked, the table, its footnotes, and where times part from counts."""

from __future__ import annotations

from typing import Any

from omniconv.analysis.comparison.result import Comparison, Measured, Row
from omniconv.report.grid import Column, Line, Span, fields, table, wrapped
from omniconv.report.numbers import digits, each, percent, ratio, short, sizes, times
from omniconv.report.words import say

# Counts and time say the same thing where they differ by less than this factor.
AGREE = 1.5
# A layer that takes less is mostly its call: Python, the dispatcher and a kernel's own beginning, 7 to 10 µs.
CALL_MS = 0.02
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_BINDS = {"compute": "comp", "memory": "mem", "mixed": "mixed"}


def lines(comparison: Comparison, width: int | None = None, lang: str = "en") -> list[Line]:
    """Everything, at most ``width`` cells wide where values allow."""
    return [
        *fields(head(comparison, lang), width),
        (),
        *table(columns(comparison, lang), spans(comparison, lang), width),
        (),
        *(((Span(text, "note"),)) for said in under(comparison, lang) for text in wrapped(said, width)),
    ]


def head(comparison: Comparison, lang: str = "en") -> list[tuple[str, str]]:
    """What was asked for, and the machine that was measured."""
    at, options = comparison.position, comparison.options
    numbers = [f"k{each(at.kernel_size)}", f"s{each(at.stride)}"]
    numbers += [f"d{each(at.dilation)}"] if any(d > 1 for d in at.dilation) else []
    up = options.get("up", 1)
    asked = [
        f"{at.in_channels} → {at.out_channels} {say('channels', lang)}",
        f"{sizes(at.in_size)} → {sizes(comparison.standard.out_size)}",
        " ".join(numbers),
        f"{say('batch', lang)} {at.batch}",
        str(options.get("dtype", "")),
        *(["channels_last"] if options.get("channels_last") else []),
    ]
    asked += [f"{say('enlarged', lang)} {up}×"] if up > 1 else []
    pairs = [(say("position", lang), "   ".join(filter(None, asked)))]
    if comparison.machine:
        pairs.append((say("machine", lang), machine_text(comparison.machine, lang)))
    return pairs


def machine_text(machine: dict[str, Any], lang: str = "en") -> str:
    """One line about a measured machine."""
    peak, bandwidths, noise = machine["peak"], machine["bandwidths"], machine["noise"]
    slow, fast = min(rate for _, rate in bandwidths), max(rate for _, rate in bandwidths)
    parts = [
        f"{machine['name']}",
        f"{machine['device']}, {machine['threads']} {say('threads', lang)}, torch {machine['torch']}",
        f"{say('peak', lang)} {short(peak)}FLOP/s, {short(slow)}B/s – {short(fast)}B/s",
        f"{say('noise', lang)} {noise:.0%}",
    ]
    return "   ".join(parts)


def columns(comparison: Comparison, lang: str = "en") -> list[Column]:
    """The headings; what was counted is one block, what was measured another."""
    counted = [
        Column(say("family", lang), right=False),
        Column(say("params", lang)),
        Column("MACs"),
        Column(say("×std", lang)),
        Column(say("RF", lang), right=False),
        Column("F/B"),
    ]
    if comparison.machine is None:
        return counted
    return [
        *counted,
        Column(f"{say('bound', lang)} ms", block=1),
        Column(say("by", lang), right=False, block=1),
        Column(f"{say('time', lang)} ms", block=1),
        Column("±", right=False, block=1),
        Column(say("×std", lang), block=1),
        Column("", right=False, block=1),
        Column(say("of bound", lang), block=1),
    ]


def spans(comparison: Comparison, lang: str = "en") -> list[tuple[Span, ...]]:
    """The cells of every row."""
    marks = _marks(comparison)
    return [_cells(comparison, row, marks, lang) for row in comparison.rows]


def _cells(comparison: Comparison, row: Row, marks: dict[str, str], lang: str) -> tuple[Span, ...]:
    name = row.korean if lang == "ko" else row.family
    label = " ".join([name, *details(comparison, row), *(mark for note, mark in marks.items() if note in row.notes)])
    empty = len(columns(comparison, lang)) - 1
    if row.params is None or row.macs is None or row.receptive_field is None:
        return (Span(label, "dim"), *(Span("–", "dim") for _ in range(empty)))
    style = "name" if row.problem != comparison.standard else "standard"
    counted = (
        Span(label, style),
        Span(_unit(row.params)),
        Span(_unit(row.macs)),
        Span("–" if row.ratio is None else ratio(row.ratio), "ratio"),
        Span(sizes(row.receptive_field) + "*" * bool(row.unbounded)),
        Span("–" if row.flop_per_byte is None else digits(row.flop_per_byte)),
    )
    return counted if comparison.machine is None else (*counted, *_measured(row))


def _measured(row: Row) -> tuple[Span, ...]:
    measured = row.measured
    if measured is None:
        return tuple(Span("–", "dim") for _ in range(7))
    bound = (Span(digits(measured.bound_ms)), Span(_BINDS[measured.bound_by], measured.bound_by))
    if measured.time_ms is None or measured.time_q1 is None or measured.time_q3 is None:
        return (*bound, Span("wrong" if measured.wrong else "–", "bad"), *(Span("") for _ in range(4)))
    share = measured.of_bound or 0.0
    return (
        *bound,
        Span(digits(measured.time_ms), "time"),
        Span(f"±{digits((measured.time_q3 - measured.time_q1) / 2, 2)}", "dim"),
        Span("–" if measured.time_ratio is None else digits(measured.time_ratio), "ratio"),
        Span("noisy" if measured.noisy else "≈" if measured.tied else "", "bad" if measured.noisy else "dim"),
        Span(percent(share), "bad" if share > 1 else ""),
    )


def details(comparison: Comparison, row: Row) -> list[str]:
    """The numbers in which a row differs from the standard convolution at the position."""
    problem, standard = row.problem, comparison.standard
    if problem is None:
        return []
    said = []
    if (problem.in_channels, problem.out_channels) != (standard.in_channels, standard.out_channels):
        said.append(f"{problem.in_channels}→{problem.out_channels}")
    for letter, mine, its in (
        ("k", problem.kernel_size, standard.kernel_size),
        ("s", problem.stride, standard.stride),
        ("d", problem.dilation, standard.dilation),
    ):
        said += [f"{letter}={each(mine)}"] if mine != its else []
    if problem.groups != standard.groups:
        multiplier = problem.out_channels // problem.in_channels
        each_alone = problem.groups == problem.in_channels
        said += [f"m={multiplier}"] if each_alone and multiplier > 1 else [] if each_alone else [f"g={problem.groups}"]
    special = dict(problem.special)
    said += [f"h={special['heads']}"] if "heads" in special else []
    return said


def under(comparison: Comparison, lang: str = "en") -> list[str]:
    """What stands below the table: the notes, what the columns mean, and where time and counts part."""
    said = [f"{mark} {note}" for note, mark in _marks(comparison).items()]
    unbounded: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row.unbounded:
            unbounded.setdefault(row.unbounded, []).append(row.family)
    said += [f"* {', '.join(names)}: {why}" for why, names in unbounded.items()]
    extra = [
        f"{row.family} {short(getattr(row, what))} {say(what, lang)}"
        for row in comparison.rows
        for what in ("sampling", "exponentials")
        if getattr(row, what)
    ]
    said += [f"{say('counted apart', lang)}: {', '.join(extra)}"] if extra else []
    said.append(
        say("legend", lang) if comparison.machine is None else f"{say('legend', lang)} {say('legend measured', lang)}"
    )
    if exceeded(comparison):
        said.append(f"{say('exceeded', lang)}: {', '.join(exceeded(comparison))}")
    said += [f"{say('wrong', lang)}: {text}" for text in comparison.wrong]
    return said + [f"{say('read', lang)}: {text}" for text in readings(comparison, lang)]


def exceeded(comparison: Comparison) -> list[str]:
    """What ran faster than the bound: the machine was busier when it was measured than when the layers were."""
    rows = [(row.family, row.measured.of_bound or 0.0) for row in comparison.rows if row.measured]
    return [family for family, share in rows if share > 1]


def readings(comparison: Comparison, lang: str = "en") -> list[str]:
    """Where fewer multiply-adds do not bring the time they promise: the two widest gaps, in words."""
    gaps = []
    for row in comparison.rows:
        measured = row.measured
        if measured is None or measured.noisy or measured.time_ratio is None or not row.ratio:
            continue
        if row.problem != row.standard and row.ratio < 1 and measured.time_ratio / row.ratio > AGREE:
            gaps.append(
                (measured.time_ratio / row.ratio, _reading(row, measured, row.ratio, measured.time_ratio, lang))
            )
    return [text for _, text in sorted(gaps, reverse=True)[:2]]


def _reading(row: Row, measured: Measured, fewer: float, factor: float, lang: str) -> str:
    if abs(factor - 1) < 0.05:
        outcome = say("no faster", lang)
    elif factor < 1:
        outcome = say("faster", lang).format(times(1 / factor))
    else:
        outcome = say("slower", lang).format(times(factor))
    share = measured.of_bound or 0.0
    bound = [part.name for part in row.parts if part.bound_by == "memory"]
    if share > 1:
        why = ""
    elif (measured.time_ms or 0.0) < CALL_MS:
        why = say("small", lang)
    elif bound and share > 1 / 3:
        why = say("memory-bound", lang).format(", ".join(dict.fromkeys(bound)))
    else:
        why = say("below bound", lang).format(percent(share), row.kernel)
    said = say("fewer", lang).format(row.family, times(1 / fewer), outcome)
    return f"{said}: {why}" if why else f"{said}."


def _marks(comparison: Comparison) -> dict[str, str]:
    notes = dict.fromkeys(note for row in comparison.rows for note in row.notes)
    return {note: str(at).translate(_SUPERSCRIPTS) for at, note in enumerate(notes, 1)}


def _unit(value: int) -> str:
    """A count whose digits stand under those of the others, with or without a prefix."""
    text = short(value)
    return text if text[-1].isalpha() else text + "  "
