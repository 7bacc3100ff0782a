# SPDX-License-Identifier: Apache-2.0
"""What convolutions there are, under which names, and what each equals exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from omniconv.core.family import Position, Setting, settings
from omniconv.core.numbers import integer
from omniconv.report.grid import Line, Span, fields, wrapped
from omniconv.report.result import Result
from omniconv.report.words import say


@dataclass(frozen=True)
class Entry:
    """One convolution: its names, its dimensions, the folder that holds it, its layers and functions."""

    family: str
    korean: str
    aliases: tuple[str, ...]
    dims: tuple[int, ...]
    summary: str
    equals: str
    formula: str
    source: str
    folder: str
    layers: tuple[str, ...]


@dataclass(frozen=True, repr=False)
class Catalogue(Result):
    """The convolutions, in the order of the documentation."""

    entries: tuple[Entry, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"schema": 1, "rows": [{k: _listed(v) for k, v in asdict(entry).items()} for entry in self.entries]}

    def to_records(self) -> list[dict[str, Any]]:
        return [
            {k: ", ".join(map(str, v)) if isinstance(v, tuple) else v for k, v in asdict(e).items()}
            for e in self.entries
        ]

    def lines(self, width: int | None = None, lang: str = "en") -> list[Line]:
        lines: list[Line] = []
        for entry in self.entries:
            names = [entry.family, entry.korean] if lang != "ko" else [entry.korean, entry.family]
            dims = " ".join(f"{dim}-D" for dim in entry.dims)
            lines += [()] if lines else []
            lines.append((Span(names[0], "standard"), Span(f"  {names[1]}  {dims}", "dim")))
            about = [(say("is", lang), entry.summary), (say("equals", lang), entry.equals)]
            about += [
                (say("also called", lang), ", ".join(entry.aliases)),
                (say("layers", lang), _stems(entry.layers)),
            ]
            for line in fields([(name, text) for name, text in about if text], None if width is None else width - 2):
                lines.append((Span("  "), *line))
        last = say("families end", lang)
        return [*lines, (), *((Span(text, "note"),) for text in wrapped(last, width))]


def families(dim: int | None = None) -> Catalogue:
    """Every convolution, or those that exist in ``dim`` dimensions."""
    if dim is not None and integer("dim", dim, 1) > 3:
        raise ValueError(f"`dim` (={dim}) must be 1, 2 or 3; use 3.")
    entries = []
    for name, (family, setting) in settings().items():
        dims = tuple(d for d in (1, 2, 3) if _exists(setting, d))
        if dim is None or dim in dims:
            about = (setting.summary, setting.equals, family.formula, family.source, family.name, family.layers)
            entries.append(Entry(name, setting.korean, setting.aliases, dims, *about))
    return Catalogue(tuple(entries))


def _exists(setting: Setting, dim: int) -> bool:
    here = Position(64, 64, (16,) * dim, (3,) * dim, (1,) * dim, (1,) * dim)
    nearest = setting.nearest(here)
    try:
        setting.build(nearest[0] if nearest else here)
    except ValueError:
        return False
    return True


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _stems(names: tuple[str, ...]) -> str:
    """Layers that differ only in their dimension once: ``Conv{1,2,3}d``."""
    dims: dict[str, str] = {}
    for name in names:
        dims[name[:-2]] = dims.get(name[:-2], "") + name[-2]
    return ", ".join(f"{stem}{{{','.join(d)}}}d" if len(d) > 1 else f"{stem}{d}d" for stem, d in dims.items())
