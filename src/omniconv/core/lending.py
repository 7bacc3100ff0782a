# SPDX-License-Identifier: Apache-2.0
"""Which results of recorded operators may lie in the same memory: those that are never read at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from weakref import ref

import torch
from torch import Tensor

LINE = 64  # bytes


class Lease(NamedTuple):
    """Memory of a result: where it begins, and its bytes."""

    at: int
    bytes: int


class Storages:
    """A number for the memory of each tensor that is alive; a view has that of what it looks at."""

    def __init__(self) -> None:
        self._number: dict[object, int] = {}
        self._held: dict[int, int] = {}
        self._alive: list[ref[Tensor]] = []
        self.count = 0

    def number_of(self, tensor: Tensor) -> int:
        """The number, a new one where no tensor that is alive has this memory."""
        key = identity(tensor)
        number = self._number.get(key)
        if number is None:
            number = self._number[key] = self.count
            self.count += 1
        self._held[number] = self._held.get(number, 0) + 1
        self._alive.append(ref(tensor, lambda _: self._let_go(key, number)))
        return number

    def _let_go(self, key: object, number: int) -> None:
        self._held[number] -= 1
        if not self._held[number]:  # other tensors may be given this memory
            del self._number[key]


def identity(tensor: Tensor) -> int:
    """What tells the memory of a tensor from that of others; tensors without any, oneDNN's, are themselves."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else id(tensor)  # noqa: SLF001


def leased(sizes: Mapping[int, tuple[int, int, int]]) -> tuple[dict[int, Lease], int]:
    """Places for memory by its number, from the first call that needs it, the last one, and its bytes; and all bytes.

    Each takes the lowest gap that is wide enough among those that are needed at the same time.
    """
    found: dict[int, Lease] = {}
    taken: list[tuple[int, int, int]] = []  # begin, end, last call
    whole = 0
    for number, (first, last, size) in sorted(sizes.items(), key=lambda item: item[1][0]):
        taken = sorted(one for one in taken if one[2] >= first)
        at = 0
        for begin, end, _ in taken:
            if begin - at >= size:
                break
            at = max(at, end)
        width = -(-size // LINE) * LINE
        taken.append((at, at + width, last))
        found[number] = Lease(at, size)
        whole = max(whole, at + width)
    return found, whole


def needed(read: Sequence[Sequence[int]], memory: Mapping[int, int], kept: set[int]) -> dict[int, int]:
    """The last call that needs each memory but those kept, by its number; from the registers of each call."""
    last: dict[int, int] = {}
    for place, registers in enumerate(read):
        last |= {memory[at]: place for at in registers if at in memory}
    return {number: place for number, place in last.items() if number not in kept}
