# SPDX-License-Identifier: Apache-2.0
"""One listener may watch every family call as a problem: a profile sees a deformable convolution, not its gathers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .problem import ConvProblem

Run = Callable[[], Any]
Listener = Callable[[ConvProblem, Sequence[Any], Run], Any]

_listener: ContextVar[Listener | None] = ContextVar("omniconv_listener", default=None)


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Send every family call inside the block to ``listener(problem, tensors, run)``, which returns ``run()``'s result.

    None silences an outer listener: a family that calls another inside ``run`` is then not seen twice.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


# The listener of this context, if any.
current_listener: Callable[[], Listener | None] = _listener.get
