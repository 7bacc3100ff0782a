# SPDX-License-Identifier: Apache-2.0
"""Memory of large results that is kept for those that come after them, while somebody asks for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .register import Plan  # noqa: F401  # which loads the library


class KeptMemory:
    """While one of these is alive, large results of the compiled library lie in memory that is kept for the next ones.

    A system gives out fresh pages one by one, each emptied first, which may take longer than what is then computed; so
    memory of 1 MiB or more is not given back when a tensor dies. Held is at most five quarters of what was in use at
    once, of all threads together; with the last of these objects it is given back. Tensors in it are like any other,
    but that their storage cannot be resized. With torch before 2.11 nothing is kept.

    A copy, or what is loaded from a pickle, asks for itself.
    """

    def __init__(self) -> None:
        _count(1)
        weakref.finalize(self, _count, -1).atexit = False

    def __deepcopy__(self, memo: Any) -> KeptMemory:
        return KeptMemory()

    def __reduce__(self) -> tuple[type[KeptMemory], tuple[()]]:
        return KeptMemory, ()


def kept_empty(like: Tensor, *sizes: int) -> Tensor:
    """A new tensor in order, of the type of ``like``, float32 or bfloat16 on a CPU, in memory that may be kept."""
    return _empty()(like, sizes)


def held() -> int:
    """The bytes that are in use or kept."""
    return _count(0)


@cache
def _empty() -> Callable[..., Tensor]:
    return torch.ops.omniconv.kept_empty.default._op  # noqa: SLF001


@cache
def _operator() -> Callable[[int], int] | None:
    operators = torch.ops.omniconv
    return operators.keep_memory.default._op if hasattr(operators, "keep_memory") else None  # noqa: SLF001


def _count(change: int) -> int:
    operator = _operator()
    return 0 if operator is None else operator(change)
