# SPDX-License-Identifier: Apache-2.0
"""``bench``: named problems, timed beside other libraries and the machine's roofline. No torch until it measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from omniconv.analysis.benchmark.peers import PEERS, version
from omniconv.analysis.benchmark.problems import DTYPES, LAYOUTS, MODES, benchmarks, every
from omniconv.analysis.benchmark.result import Bench
from omniconv.core.numbers import one_of


def bench(
    regex: str = "",
    *,
    peers: Sequence[str] | None = None,
    seconds: float = 3.0,
    dtype: str | None = None,
    layout: str | None = None,
    mode: str | None = None,
    threads: int | None = None,
    device: str = "cpu",
    rt: bool = False,
    report: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Time named problems; each answer is checked in float64 first, of omniconv and of its peers.

    Args:
        regex: which: it matches the name, the group or the problem string somewhere; "" is all of them.
        peers: what to time beside: names among torch, torch_cl, compile, onnxruntime, openvino and jax; None for those
            that are installed.
        seconds: for the timing of each problem, all peers together.
        dtype, layout, mode: only problems in ``float32`` or ``bfloat16``; in channels first, ``cf``, or last, ``cl``;
            ``forward``, or ``training`` with all gradients. None for all.
        threads: to compute with; None for as many as torch uses now.
        device: where.
        rt: ask for real-time scheduling while timing.
        report: told what is being done.
        warn: told what a reader of the times must know.

    Raises:
        TypeError: ``threads`` is not an int.
        ValueError: an argument outside its rule; no problem is chosen.
    """
    asked = {"dtype": (dtype, DTYPES), "layout": (layout, LAYOUTS), "mode": (mode, MODES)}
    filters = {name: one_of(name, value, legal) for name, (value, legal) in asked.items() if value is not None}
    chosen = benchmarks(regex, **filters)
    if not chosen:
        having = "".join(f" with `{name}` {value}" for name, value in filters.items())
        groups = ", ".join(dict.fromkeys(benchmark.group for benchmark in every()))
        raise ValueError(f"`regex` (={regex!r}) matches no problem{having}; there are {groups}.")
    if not seconds > 0:
        raise ValueError(f"`seconds` (={seconds}) must be positive; use 3.")
    names = [name for name in PEERS if version(name)] if peers is None else list(peers)
    for name in names:
        one_of("peers", name, tuple(PEERS))
    from omniconv.analysis.benchmark.measure import measured

    return measured(chosen, names, seconds=seconds, threads=threads, device=device, rt=rt, report=report, warn=warn)
