# SPDX-License-Identifier: Apache-2.0
"""A profile as text: the totals, one line per layer, and what stayed uncounted."""

from __future__ import annotations

from omniconv.analysis.field.receptive_field import ReceptiveField
from omniconv.analysis.profiling.groups import shown
from omniconv.analysis.profiling.result import Profile, Row
from omniconv.report.grid import Column, Line, Span, fields, table, wrapped
from omniconv.report.numbers import digits, short, sizes
from omniconv.report.words import say


def lines(profile: Profile, width: int | None = None, lang: str = "en") -> list[Line]:
    """Everything, at most ``width`` cells wide where values allow."""
    columns, cells = grid(profile, lang)
    return [
        *fields(head(profile, lang), width),
        (),
        *table(columns, cells, width),
        (),
        *((Span(text, "note"),) for said in under(profile, lang) for text in wrapped(said, width)),
    ]


def head(profile: Profile, lang: str = "en") -> list[tuple[str, str]]:
    """The totals."""
    totals = [
        f"{say('params', lang)} {unit(profile.params)}",
        f"MACs {'≥ ' * (profile.status == 'partial')}{unit(profile.macs)} ({profile.status})",
        f"other ops {unit(profile.other_ops)}",
        f"activations {unit(profile.activation_bytes)}B",
    ]
    pairs = [("model", "   ".join([profile.model, *totals]))]
    if profile.receptive_field is not None:
        pairs.append((say("RF", lang), str(profile.receptive_field)))
    apart = {"bias": profile.bias_adds, "sampling": profile.sampling, "exponentials": profile.exponentials}
    said = [f"{what} {unit(count)}" for what, count in apart.items() if count]
    if said:
        pairs.append((say("counted apart", lang), "   ".join(said)))
    if profile.time is not None:
        pairs.append((say("time", lang), f"{milliseconds(profile)} ms for the whole model"))
    return pairs


def milliseconds(timed: Profile | Row) -> str:
    """A median with half its interquartile range."""
    if timed.time is None:
        return "–"
    spread = digits(500 * timed.time.iqr, 2)
    return f"{digits(1e3 * timed.time.median)} ±{spread}{' noisy' * timed.time.noisy}"


def unit(count: int) -> str:
    """A count with three digits: ``3.50 M``."""
    return short(count)


def grid(profile: Profile, lang: str = "en") -> tuple[list[Column], list[tuple[Span, ...]]]:
    """Headings and cells."""
    timed = profile.time is not None
    columns = [
        Column("layer", right=False),
        Column(say("family", lang), right=False),
        Column("in → out", right=False),
        Column(say("params", lang)),
        Column("MACs"),
        Column("%"),
        Column("other ops"),
        Column(say("RF", lang), right=False, block=1),
        Column("F/B", block=1),
        *([Column(f"{say('time', lang)} ms", right=False, block=1)] if timed else []),
        Column(say("note", lang), right=False, block=1),
    ]
    return columns, [_cells(profile, row, timed=timed) for row in shown(profile)]


def _cells(profile: Profile, row: Row, *, timed: bool) -> tuple[Span, ...]:
    partial = bool(row.uncounted)
    return (
        Span(row.label, "name"),
        Span(row.family),
        Span(_sizes(row)),
        Span(unit(row.params) if row.params or not row.shared_params else "shared", "" if row.params else "dim"),
        Span("≥ " * partial + unit(row.macs), "bad" if partial else ""),
        Span(f"{100 * row.macs / profile.macs:.1f}" if profile.macs and row.macs else "", "ratio"),
        Span(unit(row.other_ops) if row.other_ops else "", "dim"),
        Span("" if row.receptive_field is None else field_text(row.receptive_field)),
        Span("" if row.flop_per_byte is None else digits(row.flop_per_byte)),
        *([Span("" if row.time is None else milliseconds(row), "time")] if timed else []),
        Span(_note(profile, row), "bad" if partial else "dim"),
    )


def _note(profile: Profile, row: Row) -> str:
    bound = row.bound(profile.machine)[1] if profile.machine and row.bytes else ""
    return "; ".join(filter(None, ["memory-bound" if bound == "memory" else "", row.note]))


def _faster(profile: Profile, row: Row) -> bool:
    """Whether a product beat its bound by more than its spread."""
    return profile.machine is not None and row.time is not None and 1e3 * row.time.q3 < row.bound(profile.machine)[0]


def _sizes(row: Row) -> str:
    """Channels, then positions, ``32→64  56×56→28×28``; what stays the same is said once."""
    if row.channels is None or row.sizes is None:
        return ""
    channels, (before, after) = "→".join(map(str, row.channels)), row.sizes
    places = sizes(before) if before == after else f"{sizes(before)}→{sizes(after)}"
    return f"{channels}  {places}" + (f"  ×{row.batch}" if row.batch not in (None, 1) else "")


def field_text(field: ReceptiveField) -> str:
    """A receptive field in one word: its size, ``whole`` after global mixing, ``*`` after learned offsets."""
    if not any(field.size):
        return "none"
    return ("whole" if all(field.is_global) else sizes(field.size)) + "*" * any(field.unbounded)


def under(profile: Profile, lang: str = "en") -> list[str]:
    """Coverage, notes, and what the columns mean."""
    counted, partial, unavailable = profile.coverage.values()
    said = [f"coverage: {counted} of {counted + sum(profile.uncounted.values())} calls that may multiply are counted"]
    if partial:
        listed = ", ".join(f"{name.replace('::', '.')} ×{count}" for name, count in profile.uncounted.items())
        said.append(f"partial: {listed} not counted; the totals are least values")
    if unavailable:
        names = ", ".join(profile.not_run[:6]) + (" …" if unavailable > 6 else "")
        said.append(f"not run: {unavailable} modules whose parameters no call read: {names}")
    said += profile.notes
    said.append(
        "MACs: multiply-adds of products, without bias, on input positions where transposed. Other ops: activations, "
        "norms, pooling, softmax. F/B: FLOP per byte."
    )
    faster = [row.label for row in profile.rows if _faster(profile, row)]
    if faster:
        said.append(f"{len(faster)} ran faster than the machine's roofline, which was measured in a worse moment")
    if profile.time is not None:
        said.append("Times are of each product by itself, on warm caches; what lies between them is in the whole only.")
    return said
