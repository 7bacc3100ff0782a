# SPDX-License-Identifier: Apache-2.0
"""What ``compare`` found: one row per convolution, as numbers, text, a notebook table, a data frame or a plot."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from omniconv.core.family import Position
from omniconv.core.problem import ConvProblem
from omniconv.report.grid import Column, Line, Span
from omniconv.report.result import Result

SCHEMA = 1


@dataclass(frozen=True)
class Part:
    """One step of a convolution: a pass over memory, bounded by itself."""

    name: str
    params: int
    macs: int
    flops: int
    bytes: int
    bound_ms: float | None = None
    bound_by: str | None = None


@dataclass(frozen=True)
class Measured:
    """Milliseconds of a row beside the roofline of the machine.

    Attributes:
        bound_ms: the least time the machine could take, step by step.
        bound_by: what bounds it: ``compute``, ``memory``, or ``mixed`` where the steps differ.
        time_ms, time_q1, time_q3: median and quartiles; None where no right answer was timed.
        time_ratio: to standard at the same shape, the median over rounds.
        noisy: spread too far to rank.
        tied: its interval overlaps another's, so the two are not ranked.
        wrong: what went wrong, or "".
    """

    bound_ms: float
    bound_by: str
    time_ms: float | None = None
    time_q1: float | None = None
    time_q3: float | None = None
    time_ratio: float | None = None
    noisy: bool = False
    tied: bool = False
    wrong: str = ""

    @property
    def of_bound(self) -> float | None:
        """The share of the machine's roofline that is reached."""
        return self.bound_ms / self.time_ms if self.time_ms else None


@dataclass(frozen=True)
class Row:
    """One convolution at the position, or at the nearest one that it can fill.

    Attributes:
        family: its name, as JSON and the command line spell it.
        korean: its Korean name.
        problem: what was counted; None where it cannot be built at all.
        standard: the standard convolution of the same shape, which ratios refer to.
        notes: how it differs from what was asked for; for an unavailable one, why.
        params, macs, bytes, flops, sampling, exponentials: see :class:`omniconv.core.cost.Cost`.
        ratio: MACs over those of ``standard``.
        receptive_field: input positions per axis that reach one output.
        unbounded: why the receptive field has no fixed size, or "".
        kernel: what would compute it.
        parts: its steps.
        measured: times, where they were measured.
    """

    family: str
    korean: str
    problem: ConvProblem | None
    standard: ConvProblem | None = None
    notes: tuple[str, ...] = ()
    params: int | None = None
    macs: int | None = None
    ratio: float | None = None
    receptive_field: tuple[int, ...] | None = None
    unbounded: str = ""
    bytes: int | None = None
    flops: int | None = None
    sampling: int | None = None
    exponentials: int | None = None
    kernel: str | None = None
    parts: tuple[Part, ...] = ()
    measured: Measured | None = None

    @property
    def available(self) -> bool:
        """Whether the convolution can be built here, at the position or near it."""
        return self.problem is not None

    @property
    def flop_per_byte(self) -> float | None:
        """Floating-point operations for each byte moved at least."""
        return self.flops / self.bytes if self.flops is not None and self.bytes else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values under English keys; None for what is not known."""
        problem, measured = self.problem, self.measured
        return {
            "family": self.family,
            "params": self.params,
            "macs": self.macs,
            "ratio": self.ratio,
            "receptive_field": None if self.receptive_field is None else list(self.receptive_field),
            "unbounded": self.unbounded,
            "bytes": self.bytes,
            "flops": self.flops,
            "flop_per_byte": self.flop_per_byte,
            "sampling": self.sampling,
            "exponentials": self.exponentials,
            "bound_ms": measured and measured.bound_ms,
            "bound_by": measured and measured.bound_by,
            "time_ms": measured and measured.time_ms,
            "time_q1": measured and measured.time_q1,
            "time_q3": measured and measured.time_q3,
            "time_ratio": measured and measured.time_ratio,
            "of_bound": measured and measured.of_bound,
            "noisy": measured and measured.noisy,
            "tied": measured and measured.tied,
            "available": self.available,
            "note": "; ".join(self.notes),
            "in_channels": problem and problem.in_channels,
            "out_channels": problem and problem.out_channels,
            "in_size": problem and problem.in_size and list(problem.in_size),
            "out_size": problem and list(problem.out_size),
            "kernel": self.kernel,
            "problem": problem and str(problem),
            "standard": self.standard and str(self.standard),
        }


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Every convolution at one layer position. Its repr is the table; in a notebook it shows as HTML.

    Attributes:
        position: what was asked for.
        standard: the standard convolution at the position.
        rows: one per convolution, in the order of the documentation or as sorted.
        options: ``up``, ``dtype``, ``device``, ``channels_last``.
        machine: what the times were measured on, or None.
    """

    position: Position
    standard: ConvProblem
    rows: tuple[Row, ...]
    options: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] | None = None

    @property
    def wrong(self) -> tuple[str, ...]:
        """What failed its check against the reference, and was therefore not timed."""
        return tuple(f"{row.family}: {row.measured.wrong}" for row in self.rows if row.measured and row.measured.wrong)

    def lines(self, width: int | None = None, lang: str = "en") -> list[Line]:
        """The table and all that is said about it, styled, at most ``width`` cells wide where values allow."""
        from omniconv.analysis.comparison.text import lines

        return lines(self, width, lang)

    def grid(self, lang: str = "en") -> tuple[list[Column], list[tuple[Span, ...]]]:
        """The table: headings and cells."""
        from omniconv.analysis.comparison.text import columns, spans

        return columns(self, lang), spans(self, lang)

    def under(self, lang: str = "en") -> list[str]:
        """Notes, what the columns mean, and where times part from counts."""
        from omniconv.analysis.comparison.text import under

        return under(self, lang)

    def _repr_html_(self) -> str:
        from omniconv.analysis.comparison.page import content
        from omniconv.report.page import fragment

        return fragment(content(self))

    def to_html(self, lang: str = "en") -> str:
        """One page that needs nothing else: the table, bars, and the numbers as JSON inside it."""
        from omniconv.analysis.comparison.page import page

        return page(self, lang)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, under a schema version."""
        at, problem = self.position, self.standard
        return {
            "schema": SCHEMA,
            "position": {
                "in_channels": at.in_channels,
                "out_channels": at.out_channels,
                "in_size": list(at.in_size),
                "out_size": list(problem.out_size),
                "kernel_size": list(at.kernel_size),
                "stride": list(at.stride),
                "dilation": list(at.dilation),
                "groups": at.groups,
                "heads": at.heads,
                "batch": at.batch,
                "dim": at.dim,
                **self.options,
            },
            "machine": self.machine,
            "rows": [row.to_dict() | {"parts": [vars(part) for part in row.parts]} for row in self.rows],
        }

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as plain values, one dictionary each."""
        return [row.to_dict() for row in self.rows]

    def to_pandas(self) -> Any:
        """The rows as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = import_module("pandas")
        except ImportError as error:
            raise ImportError("`to_pandas` needs pandas; pip install pandas.") from error
        return pandas.DataFrame(self.to_records()).set_index("family")

    def plot(self, ax: Any = None) -> Any:
        """Bars of MACs, and of time where it was measured, each over standard; returns matplotlib's Axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from omniconv.analysis.comparison.page import plot

        return plot(self, ax)

    def html(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write :meth:`to_html` to a file.

        Raises:
            FileExistsError: ``path`` exists, and ``overwrite`` is not set.
        """
        from omniconv.report.files import write

        return write(path, self.to_html(), overwrite=overwrite)
