# SPDX-License-Identifier: Apache-2.0
"""Which of a model's outputs is meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

Path = str | int | Sequence[str | int]


def output_of(result: Any, path: Path | None) -> Tensor:
    """The tensor of a model's output that ``path`` names, or its only one.

    Raises:
        ValueError: several tensors and no path, or a path that leads to none; the text lists those that do.
    """
    found = dict(_tensors(result, ()))
    if not found:
        raise ValueError(f"`model` returns no tensor but {type(result).__name__}; wrap it so that it returns one.")
    legal = ", ".join(repr(p[0] if len(p) == 1 else p) for p in found)
    if path is None:
        if len(found) > 1:
            raise ValueError(f"`output` (=None) must say which of {len(found)} outputs is meant; use {legal}.")
        return next(iter(found.values()))
    steps = (path,) if isinstance(path, (str, int)) else tuple(path)
    if steps not in found:
        raise ValueError(f"`output` (={path!r}) leads to no tensor; use {legal if () not in found else None}.")
    return found[steps]


def _tensors(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    items: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    elif is_dataclass(value) and not isinstance(value, type):
        items = [(f.name, getattr(value, f.name)) for f in fields(value)]
    for key, item in items:
        yield from _tensors(item, (*path, key))
