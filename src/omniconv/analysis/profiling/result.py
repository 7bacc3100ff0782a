# SPDX-License-Identifier: Apache-2.0
"""What ``profile`` found: a row for each product and for what runs beside them, totals, and what stayed uncounted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniconv.analysis.machine import Machine
from omniconv.analysis.timing import Timing
from omniconv.core.family import family_of
from omniconv.core.problem import ConvProblem
from omniconv.report.grid import Column, Line, Span
from omniconv.report.result import Result

if TYPE_CHECKING:
    from omniconv.analysis.field.receptive_field import ReceptiveField
    from omniconv.analysis.profiling.replay import Recipe

SCHEMA = 1
OTHER = "other"


@dataclass(frozen=True)
class Row:
    """One product that a module call ran, or all else that the call ran by itself.

    Attributes:
        name: the qualified name of the module, "" for the model itself.
        module: its class.
        call: which call of the module, from 1; 0 for what ran outside of any.
        family: ``standard``, ``depthwise`` and so on for a convolution; ``linear``, ``matmul``, ``attention``,
            ``recurrent`` for other products; ``other`` for all else.
        operators: what ran, with how often.
        params: parameters that no earlier row read; ``shared_params`` those that one did.
        macs: multiply-adds, on input positions for a transposed convolution, without bias.
        bias_adds, sampling, exponentials, other_ops: work counted apart.
        bytes: least bytes moved: inputs, weights and outputs once each.
        channels, sizes: in and out.
        batch: how many of these.
        problem: the numbers of a convolution.
        uncounted: operators that no rule knows, with how often.
        receptive_field: of the module's output, where it could be followed.
        recipe: how to run it again.
        time: seconds of its product by itself, where measured.
        parts: the rows that this one puts together, if any.
    """

    name: str
    module: str
    call: int
    family: str
    operators: tuple[tuple[str, int], ...]
    params: int = 0
    shared_params: int = 0
    macs: int = 0
    bias_adds: int = 0
    sampling: int = 0
    exponentials: int = 0
    other_ops: int = 0
    bytes: int = 0
    channels: tuple[int, int] | None = None
    sizes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    batch: int | None = None
    problem: ConvProblem | None = None
    uncounted: tuple[tuple[str, int], ...] = ()
    receptive_field: ReceptiveField | None = None
    recipe: Recipe | None = field(default=None, repr=False, compare=False)
    time: Timing | None = None
    parts: tuple[Row, ...] = field(default=(), repr=False)

    @property
    def flops(self) -> int:
        """Floating-point operations for a roofline: two a multiply-add, sampling included, and one for all else."""
        return 2 * (self.macs + self.sampling) + self.bias_adds + self.other_ops

    @property
    def flop_per_byte(self) -> float | None:
        """Floating-point operations for each byte moved at least."""
        return self.flops / self.bytes if self.bytes else None

    @property
    def label(self) -> str:
        """The module's name, with the call where it is not the first."""
        name = self.name or f"({self.module})"
        return f"{name} #{self.call}" if self.call > 1 else name

    @property
    def note(self) -> str:
        """What the numbers leave out, in words."""
        said = [f"{name.replace('::', '.')} ×{count} not counted" for name, count in self.uncounted]
        said += [f"{self.shared_params} parameters shared with a row above"] if self.shared_params else []
        return "; ".join(said)

    def with_field(self, found: ReceptiveField | None) -> Row:
        """The same row with the receptive field of its module's output."""
        return self if found is None or self.family == OTHER else replace(self, receptive_field=found)

    def bound(self, machine: Machine) -> tuple[float, str]:
        """Milliseconds that the machine needs at least, step by step, and what they are spent on."""
        bounds = [machine.roofline(flops, nbytes) for flops, nbytes in self.passes() if nbytes]
        kinds = {bound.binds for bound in bounds}
        return 1e3 * sum(b.seconds for b in bounds), kinds.pop() if len(kinds) == 1 else "mixed"

    def passes(self) -> Iterator[tuple[int, int]]:
        """FLOPs and bytes of each pass over memory."""
        if self.parts:
            for part in self.parts:
                yield from part.passes()
        elif self.problem is not None:
            cost = family_of(self.problem).cost(self.problem)
            itemsize = self.bytes // max(cost.bytes(1), 1)
            yield from ((step.flops, itemsize * step.elements) for step in cost.steps)
        else:
            yield self.flops, self.bytes


@dataclass(frozen=True, repr=False)
class Profile(Result):
    """What a model costs on one input. Its repr is the table; in a notebook it shows as HTML.

    Attributes:
        model: the class of the model.
        rows: in the order they ran.
        params: parameters of the model, shared ones once, whether they were used or not.
        activation_bytes: bytes of all tensors made on the way; many of them live only briefly.
        not_run: modules with parameters that no call read.
        receptive_field: of the model's first output, where it could be followed.
        notes: what else there is to say.
        depth: how deep the table and the records look into the model; None for every row.
        top: how many rows they hold, those with most multiply-adds; None for all. Totals are of all.
        machine: whose roofline says what memory bounds.
        time: seconds of the whole model, measured in the same rounds as its rows.
    """

    model: str
    rows: tuple[Row, ...]
    params: int
    activation_bytes: int
    not_run: tuple[str, ...] = ()
    receptive_field: ReceptiveField | None = None
    notes: tuple[str, ...] = ()
    depth: int | None = None
    machine: Machine | None = None
    time: Timing | None = None
    top: int | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds of all products: convolutions, linear layers, matrix products, attention, recurrent layers."""
        return sum(row.macs for row in self.rows)

    @property
    def bias_adds(self) -> int:
        """Additions of biases."""
        return sum(row.bias_adds for row in self.rows)

    @property
    def sampling(self) -> int:
        """Multiply-adds of bilinear sampling."""
        return sum(row.sampling for row in self.rows)

    @property
    def exponentials(self) -> int:
        """Exponentials of softmaxes over taps."""
        return sum(row.exponentials for row in self.rows)

    @property
    def other_ops(self) -> int:
        """Operations that belong to no product: activations, norms, pooling, softmax."""
        return sum(row.other_ops for row in self.rows)

    @property
    def bytes(self) -> int:
        """Least bytes moved, call by call."""
        return sum(row.bytes for row in self.rows)

    @property
    def by_family(self) -> dict[str, int]:
        """Multiply-adds by kind, largest first."""
        found: Counter[str] = Counter()
        for row in self.rows:
            found[row.family] += row.macs
        return {name: macs for name, macs in found.most_common() if macs}

    @property
    def uncounted(self) -> dict[str, int]:
        """Operators that no rule knows, with how often they ran."""
        found: Counter[str] = Counter()
        for row in self.rows:
            found.update(dict(row.uncounted))
        return dict(found)

    @property
    def status(self) -> str:
        """``complete``, or ``partial`` where something ran that no rule knows: the totals are then least values."""
        return "partial" if self.uncounted else "complete"

    @property
    def coverage(self) -> dict[str, int]:
        """Products counted, module calls with something uncounted, and modules with parameters that did not run."""
        return {
            "counted": sum(row.family != OTHER for row in self.rows),
            "partial": sum(bool(row.uncounted) for row in self.rows),
            "unavailable": len(self.not_run),
        }

    def to_records(self) -> list[dict[str, Any]]:
        """The rows as plain values, one dictionary each, put together below modules of ``depth``, ``top`` of them."""
        from omniconv.analysis.profiling.groups import below

        rows = self.rows if self.depth is None else below(self.rows, self.depth)
        return [self._record(row) for row in self.largest(rows)]

    def largest(self, rows: Sequence[Row]) -> list[Row]:
        """The ``top`` rows with most multiply-adds, in their order."""
        kept = sorted(range(len(rows)), key=lambda at: (-rows[at].macs, at))[: self.top]
        return [rows[at] for at in sorted(kept)]

    def _record(self, row: Row) -> dict[str, Any]:
        field, (bound_ms, bound_by) = row.receptive_field, row.bound(self.machine) if self.machine else (None, None)
        return {
            "name": row.name,
            "module": row.module,
            "call": row.call,
            "family": row.family,
            "in_channels": row.channels and row.channels[0],
            "out_channels": row.channels and row.channels[1],
            "in_size": row.sizes and list(row.sizes[0]),
            "out_size": row.sizes and list(row.sizes[1]),
            "batch": row.batch,
            "params": row.params,
            "shared_params": row.shared_params,
            "macs": row.macs,
            "share": row.macs / self.macs if self.macs else 0.0,
            "bias_adds": row.bias_adds,
            "sampling": row.sampling,
            "exponentials": row.exponentials,
            "other_ops": row.other_ops,
            "bytes": row.bytes,
            "flops": row.flops,
            "flop_per_byte": row.flop_per_byte,
            "receptive_field": field and list(field.size),
            "bound_ms": bound_ms,
            "bound_by": bound_by,
            "time_ms": row.time and 1e3 * row.time.median,
            "time_q1": row.time and 1e3 * row.time.q1,
            "time_q3": row.time and 1e3 * row.time.q3,
            "noisy": row.time and row.time.noisy,
            "operators": " ".join(f"{name}*{count}" for name, count in row.operators),
            "problem": row.problem and str(row.problem),
            "note": row.note,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, under a schema version."""
        field = self.receptive_field.to_dict() if self.receptive_field else None
        return {
            "schema": SCHEMA,
            "model": self.model,
            "status": self.status,
            "params": self.params,
            "macs": self.macs,
            "bias_adds": self.bias_adds,
            "sampling": self.sampling,
            "exponentials": self.exponentials,
            "other_ops": self.other_ops,
            "bytes": self.bytes,
            "activation_bytes": self.activation_bytes,
            "macs_by_family": self.by_family,
            "receptive_field": field and {key: value for key, value in field.items() if key != "layers"},
            "coverage": self.coverage,
            "uncounted": self.uncounted,
            "not_run": list(self.not_run),
            "notes": list(self.notes),
            "machine": self.machine and self.machine.to_dict(),
            "time_ms": self.time and 1e3 * self.time.median,
            "rows": self.to_records(),
        }

    def lines(self, width: int | None = None, lang: str = "en") -> list[Line]:
        """Totals, the table, and what the numbers leave out."""
        from omniconv.analysis.profiling.text import lines

        return lines(self, width, lang)

    def grid(self, lang: str = "en") -> tuple[list[Column], list[tuple[Span, ...]]]:
        """The table: headings and cells."""
        from omniconv.analysis.profiling.text import grid

        return grid(self, lang)

    def under(self, lang: str = "en") -> list[str]:
        """Coverage and notes."""
        from omniconv.analysis.profiling.text import under

        return under(self, lang)

    def _repr_html_(self) -> str:
        from omniconv.analysis.profiling.page import content
        from omniconv.report.page import fragment

        return fragment(content(self))

    def to_html(self, lang: str = "en") -> str:
        """One page that needs nothing else: totals, the table with bars, and the numbers as JSON inside it."""
        from omniconv.analysis.profiling.page import page

        return page(self, lang)

    def html(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write :meth:`to_html` to a file.

        Raises:
            FileExistsError: ``path`` exists, and ``overwrite`` is not set.
        """
        from omniconv.report.files import write

        return write(path, self.to_html(), overwrite=overwrite)
