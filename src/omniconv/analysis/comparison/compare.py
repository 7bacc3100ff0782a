# SPDX-License-Identifier: Apache-2.0
"""Every convolution at one layer position, side by side: what each costs, and on request how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any
from unicodedata import combining, normalize

from omniconv.analysis.comparison.result import Comparison, Part, Row
from omniconv.core.choose import choose
from omniconv.core.family import Family, Position, Setting, settings
from omniconv.core.numbers import boolean, integer, one_of, per_axis
from omniconv.core.problem import ConvProblem
from omniconv.core.taps import field_of_path
from omniconv.report.numbers import sizes

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
SORTS = ("family", "params", "macs", "bytes", "flop_per_byte", "receptive_field", "bound", "time")
Names = str | Sequence[str] | None


def compare(
    in_channels: int,
    out_channels: int,
    size: int | tuple[int, ...],
    *,
    kernel_size: int | tuple[int, ...] = 3,
    stride: int | tuple[int, ...] = 1,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 4,
    heads: int = 8,
    dim: int | None = None,
    batch: int = 1,
    up: int = 1,
    only: Names = None,
    skip: Names = None,
    time: bool = False,
    device: str = "cpu",
    dtype: str = "float32",
    channels_last: bool = False,
    threads: int | None = None,
    sort: str | None = None,
    seconds: float = 20.0,
    report: Callable[[str], None] | None = None,
) -> Comparison:
    """Count, and on request time, every convolution that could stand at one position of a network.

    Without ``time`` no torch is imported. With it, each layer is first checked against its float64 reference, and only
    then timed, all in the same rounds.

    Args:
        in_channels, out_channels, size: channels in and out, and input positions (one number for all axes).
        kernel_size, stride, dilation: of every convolution that has them; dilated uses 2 where ``dilation`` is 1.
        groups: of grouped.
        heads: of the convolutions whose channels share kernels.
        dim: number of axes; that of ``size`` where it is a tuple, else 2.
        batch: images at once.
        up: by how much the position enlarges: convolutions that cannot do so themselves read an enlarged input.
        only, skip: names (or aliases) to show, or not to.
        time: whether to measure.
        device, channels_last, threads: how to measure; an error without ``time``.
        dtype: what to compute in, and for the bytes.
        sort: by what to sort: ``family``, ``params``, ``macs``, ``bytes``, ``flop_per_byte``, ``receptive_field``,
            ``bound`` or ``time``; None keeps the order of the documentation.
        seconds: for the timing of all layers together.
        report: told what is being done, where that takes long.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument outside its rule; the text names the rule and the nearest legal value.

    Example:
        >>> comparison = compare(64, 128, 56, only="standard")
        >>> comparison.rows[0].macs
        231211008
    """
    position = position_of(in_channels, out_channels, size, kernel_size, stride, dilation, groups, heads, dim, batch)
    scale = integer("up", up, 1)
    if scale > 1 and any(s > 1 for s in position.stride):
        raise ValueError(
            f"`up` (={scale}) and `stride` (={position.stride}) cannot both be above 1; use up=1 or stride=1."
        )
    one_of("dtype", dtype, tuple(BYTES))
    _check_timing(sort, time, str(device), channels_last, threads, seconds)
    names = chosen(only, skip)
    baseline = next(iter(settings().values()))[1]
    standard = baseline.build(enlarged(position, baseline, scale))
    rows = [_row(name, position, scale, dtype, str(device)) for name in names]
    options = {"up": scale, "dtype": dtype, "device": str(device), "channels_last": channels_last}
    comparison = Comparison(position, standard, tuple(rows), options)
    if time:
        from omniconv.analysis.comparison.measure import measured

        comparison = measured(comparison, threads, seconds, report)
    return replace(comparison, rows=tuple(_sorted(list(comparison.rows), sort)))


def position_of(
    in_channels: Any,
    out_channels: Any,
    size: Any,
    kernel_size: Any = 3,
    stride: Any = 1,
    dilation: Any = 1,
    groups: Any = 4,
    heads: Any = 8,
    dim: Any = None,
    batch: Any = 1,
    **more: Any,
) -> Position:
    """The position that the arguments describe, checked; raises as :func:`compare`."""
    if dim is not None and integer("dim", dim, 1) > 3:
        raise ValueError(f"`dim` (={dim}) must be 1, 2 or 3; use 3.")
    given = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else None
    dim = dim or (len(given) if given else 2)
    if dim > 3:
        raise ValueError(f"`size` (={given}) must have one to three axes; use {given[:3] if given else 1}.")
    return Position(
        integer("in_channels", in_channels, 1),
        integer("out_channels", out_channels, 1),
        per_axis("size", size, dim, 1),
        per_axis("kernel_size", kernel_size, dim, 1),
        per_axis("stride", stride, dim, 1),
        per_axis("dilation", dilation, dim, 1),
        integer("groups", groups, 1),
        integer("heads", heads, 1),
        integer("batch", batch, 1),
        **more,
    )


def setting_named(name: str) -> tuple[Family, Setting]:
    """The setting of this name or alias, however it is hyphenated; raises ``ValueError`` naming the nearest."""
    if not isinstance(name, str):
        raise TypeError(f"`family` (={name!r}) must be a string, not {type(name).__name__}.")
    known = _known()
    if _plain(name) in known:
        return known[_plain(name)]
    close = closest(name)
    hint = f"use {close!r}" if close else f"use one of {', '.join(settings())}"
    raise ValueError(f"`family` (={name!r}) is not known; {hint}.")


def closest(name: str) -> str | None:
    """The name that ``name`` was probably meant to be."""
    known = _known()
    close = get_close_matches(_plain(name), known, n=1, cutoff=0.6)
    return known[close[0]][1].name if close else None


def _known() -> dict[str, tuple[Family, Setting]]:
    """Every setting under its name and its aliases; a name goes before an alias."""
    pairs = settings().values()
    aliases = {_plain(alias): pair for pair in pairs for alias in pair[1].aliases}
    return aliases | {_plain(pair[1].name): pair for pair in pairs}


def chosen(only: Names = None, skip: Names = None) -> list[str]:
    """Names of the settings to show, in the order of the documentation."""
    wanted, unwanted = (_names(n) for n in (only, skip))
    names = [name for name in settings() if (wanted is None or name in wanted) and name not in (unwanted or ())]
    if not names:
        raise ValueError(f"`only` (={only!r}) without `skip` (={skip!r}) leaves nothing; use None for either.")
    return names


def enlarged(position: Position, setting: Setting, up: int) -> Position:
    """The position as a setting fills it where the layer enlarges: by its own stride, or on an enlarged input."""
    if up == 1:
        return position
    if setting.build(position).transposed:
        return replace(position, stride=tuple(up for _ in position.stride))
    return replace(position, in_size=tuple(up * i for i in position.in_size))


def _row(name: str, position: Position, up: int, dtype: str, device: str) -> Row:
    family, setting = settings()[name]
    baseline = next(iter(settings().values()))[1]
    try:
        nearest = setting.nearest(position)
        here, notes = nearest or (position, "")
        problem = setting.build(enlarged(here, setting, up))
        same = replace(position, in_channels=here.in_channels, out_channels=here.out_channels)
        standard = baseline.build(enlarged(same, baseline, up))
        cost, own = family.cost(problem), baseline_macs(standard)
        field = field_of_path(family.path(problem))
    except ValueError as error:
        return Row(name, setting.korean, None, notes=(f"unavailable: {error}",))
    said = [notes] if notes else []
    called = family.setting_of(problem).name
    if called != name:
        said.append(f"with these numbers it is {called}")
    if problem.out_size != standard.out_size and not nearest:
        said.append(f"gives {sizes(problem.out_size)}, not {sizes(standard.out_size)}")
    if up > 1 and not problem.transposed:
        large = sizes(standard.in_size or ())
        said.append(f"reads the input enlarged to {large}, where its RF lies; enlarging it is not counted")
    parts = tuple(
        Part(s.name, s.params.value + s.bias, s.macs.value, s.flops, s.elements * BYTES[dtype]) for s in cost.steps
    )
    return Row(
        name,
        setting.korean,
        problem,
        standard,
        tuple(said),
        cost.params,
        cost.macs,
        cost.macs / own if own else None,
        tuple(axis.size for axis in field),
        family.unbounded(problem),
        cost.bytes(BYTES[dtype]),
        cost.flops,
        cost.sampling,
        cost.exponentials,
        choose(problem, dtype, device).kernel.name,
        parts,
    )


def baseline_macs(standard: ConvProblem) -> int:
    """MACs of the standard convolution that ratios refer to."""
    return next(iter(settings().values()))[0].cost(standard).macs


def _sorted(rows: list[Row], sort: str | None) -> list[Row]:
    def key(row: Row) -> tuple[bool, Any]:
        measured = row.measured
        value: Any = {
            "params": row.params,
            "macs": row.macs,
            "bytes": row.bytes,
            "flop_per_byte": row.flop_per_byte,
            "receptive_field": row.receptive_field,
            "bound": measured and measured.bound_ms,
            "time": (measured and not measured.noisy and measured.time_ms) or None,
        }[sort or ""]
        return value is None, value if value is not None else 0

    if sort is None:
        return rows
    return sorted(rows, key=(lambda row: (False, row.family)) if sort == "family" else key)


def _check_timing(
    sort: str | None, time: bool, device: str, channels_last: bool, threads: int | None, seconds: float
) -> None:
    """Raise where one of these is wrong, or says something about times and none are asked for."""
    boolean("time", time)
    boolean("channels_last", channels_last)
    if sort is not None:
        one_of("sort", sort, SORTS)
    if threads is not None:
        integer("threads", threads, 1)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"`seconds` (={seconds!r}) must be a number, not {type(seconds).__name__}; use 20.")
    if not seconds > 0:
        raise ValueError(f"`seconds` (={seconds}) must be positive; use 20.")
    for name, value, idle in (
        ("sort", sort, sort not in ("bound", "time")),
        ("device", device, device == "cpu"),
        ("channels_last", channels_last, not channels_last),
        ("threads", threads, threads is None),
    ):
        if not (time or idle):
            raise ValueError(f"`{name}` (={value!r}) needs times; use time=True.")


def _names(given: Names) -> list[str] | None:
    if given is None:
        return None
    if not isinstance(given, Sequence):
        raise TypeError(f"`only` and `skip` take names, not {type(given).__name__} ({given!r}); use 'standard'.")
    return [setting_named(text)[1].name for text in (given.split(",") if isinstance(given, str) else given)]


def _plain(name: str) -> str:
    letters = "".join(c for c in normalize("NFKD", name) if not combining(c))
    return letters.strip().lower().replace("_", "-").replace(" ", "-")
