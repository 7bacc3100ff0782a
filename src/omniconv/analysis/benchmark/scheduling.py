# SPDX-License-Identifier: Apache-2.0
"""Real-time scheduling while something is timed: no other program of the machine then takes its cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def real_time(*, wanted: bool = True) -> Iterator[str]:
    """Run every thread that this process has, those of thread pools too, before all ordinary ones; then put it back.

    Yields:
        Why that is not permitted here, or "".
    """
    refused = ""
    if wanted:
        try:
            _schedule("SCHED_FIFO", 1)
        except (OSError, AttributeError) as error:  # not permitted, or not this operating system's
            wanted, refused = False, f"no real-time scheduling here ({error}): times may be unsteady."
    try:
        yield refused
    finally:
        if wanted:
            _schedule("SCHED_OTHER", 0)


def _schedule(policy: str, priority: int) -> None:
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that ended meanwhile
            os.sched_setscheduler(int(task.name), getattr(os, policy), os.sched_param(priority))
