# SPDX-License-Identifier: Apache-2.0
"""The numbers of a schema as one list of integers, which is what compiled operators take.

Several lists cost a microsecond more a call, and a text 60 bytes: torch 2.13 never frees one that it hands to an
operator of the stable ABI. A list stands as its length and its values, a word as its place among the words of the
kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any


class Flat:
    """How the arguments behind the tensors of one schema are written, and read back."""

    def __init__(self, schema: str, words: tuple[str, ...]) -> None:
        arguments = schema[1 : schema.index(")")].split(", ")
        self.kinds = tuple(a.split()[0] for a in arguments if not a.startswith("Tensor"))
        self.words = words

    def pack(self, numbers: Sequence[Any]) -> tuple[int, ...]:
        """The arguments as integers."""
        flat: list[int] = []
        for value in numbers:
            if isinstance(value, str):
                flat.append(self.words.index(value))
            elif isinstance(value, (tuple, list)):
                flat += [len(value), *value]
            else:
                flat.append(int(value) if isinstance(value, bool) else value)
        return tuple(flat)

    def unpack(self, flat: Sequence[int]) -> tuple[Any, ...]:
        """The integers as arguments."""
        left = iter(flat)
        return tuple(self._read(kind, left) for kind in self.kinds)

    def _read(self, kind: str, left: Iterator[int]) -> Any:
        if kind.endswith("[]"):
            return tuple(next(left) for _ in range(next(left)))
        value = next(left)
        if kind == "str":
            return self.words[value]
        return bool(value) if kind == "bool" else value
