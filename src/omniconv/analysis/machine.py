# SPDX-License-Identifier: Apache-2.0
"""What this machine can do at best: the roofline that bounds every time from below.

The peak is the fastest matrix product; the bandwidth is that of a copy which touches as many bytes as the work in
question, because a working set that fits a cache moves several times faster than one that does not.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omniconv.analysis.timing import NOISY, Clock, Timing, interleaved, synchronizer

if TYPE_CHECKING:
    import torch

DTYPES = ("float64", "float32", "bfloat16", "float16")
# Bytes that a copy touches, read and written together.
WORKING_SETS = (500_000, 2_000_000, 8_000_000, 32_000_000, 128_000_000)
# Smaller products time the waking of threads on a busy machine, and larger ones take a small machine too long.
PRODUCTS = {"cpu": (512, 1024, 2048), "gpu": (1024, 4096, 8192)}
# A timing with its warm-up takes at least this many calls.
FEWEST_CALLS = 5
SECONDS = {"peak": 1.0, "bandwidth": 0.8, "noise": 0.3}


@dataclass(frozen=True)
class Bound:
    """The least time for an amount of work, and what it is spent on: `compute` or `memory`."""

    seconds: float
    binds: str


@dataclass(frozen=True)
class Machine:
    """One device at one dtype, measured (or assumed).

    Attributes:
        name: Of the processor.
        device: As torch spells it.
        dtype: What is stored and moved.
        threads: That computed.
        torch: Its version.
        peak: FLOP per second; a multiply-add is two.
        bandwidths: (bytes touched, bytes per second), by rising size.
        noise: Interquartile range over median of a short kernel repeated: 0 on a machine that does nothing else.
    """

    name: str
    device: str
    dtype: str
    threads: int
    torch: str
    peak: float
    bandwidths: tuple[tuple[float, float], ...]
    noise: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.peak) and self.peak > 0):
            raise ValueError(
                f"`peak` (={self.peak}) must be a positive number of FLOP per second; 1e11 is 100 GFLOP/s."
            )
        if not self.bandwidths:
            raise ValueError(
                "`bandwidths` (=()) must have a (bytes, bytes per second) pair; ((1e6, 1e10),) is 10 GB/s."
            )
        sizes = [size for size, _ in self.bandwidths]
        if sizes != sorted(set(sizes)) or sizes[0] <= 0 or any(not rate > 0 for _, rate in self.bandwidths):
            raise ValueError(
                f"`bandwidths` (={self.bandwidths}) must be positive pairs of rising size; sort them by size."
            )

    @property
    def noisy(self) -> bool:
        """Whether timings on this machine are too unsteady to rank."""
        return self.noise > NOISY

    def bandwidth(self, nbytes: float) -> float:
        """Bytes per second at a working set of `nbytes`: linear in log(bytes), constant beyond the measured ends."""
        below, above = self.bandwidths[0], self.bandwidths[-1]
        if nbytes <= below[0]:
            return below[1]
        for pair in self.bandwidths:
            if nbytes <= pair[0]:
                above = pair
                break
            below = pair
        if below == above or nbytes >= above[0]:
            return above[1]
        share = math.log(nbytes / below[0]) / math.log(above[0] / below[0])
        return below[1] + share * (above[1] - below[1])

    def roofline(self, flops: float, nbytes: float) -> Bound:
        """The least time to do `flops` while moving `nbytes`, were both to overlap completely."""
        for name, value in (("flops", flops), ("nbytes", nbytes)):
            if not value >= 0:
                raise ValueError(f"`{name}` (={value}) must not be negative; use 0 or more.")
        compute, memory = flops / self.peak, nbytes / self.bandwidth(nbytes)
        return Bound(compute, "compute") if compute >= memory else Bound(memory, "memory")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def better(before: Machine, after: Machine) -> Machine:
    """What a machine measured twice could do at its better moment.

    A bound taken while something else ran would bound nothing.
    """
    pairs = zip(before.bandwidths, after.bandwidths, strict=True)
    return replace(
        before,
        peak=max(before.peak, after.peak),
        bandwidths=tuple((size, max(rate, again)) for (size, rate), (_, again) in pairs),
        noise=max(before.noise, after.noise),
    )


def measure_machine(
    dtype: torch.dtype | str = "float32",
    device: torch.device | str = "cpu",
    threads: int | None = None,
    *,
    clock: Clock = time.perf_counter,
) -> Machine:
    """Measure peak, bandwidths and noise, in under three seconds.

    Args:
        dtype: One of float64, float32, bfloat16, float16. The peak of the last two is float32's where that is higher:
            data may be stored in half and computed on in float32.
        device: The CPU or an accelerator of this machine.
        threads: Of the CPU; None for as many as torch uses now.
        clock: Seconds, monotonic.

    Raises:
        TypeError: `threads` is not an int.
        ValueError: Another dtype, a device that is not here, or fewer than one thread.
    """
    import torch

    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"`dtype` (={name}) must be one of {', '.join(DTYPES)}; use float32.")
    threads = torch.get_num_threads() if threads is None else threads
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"`threads` (={threads!r}) must be an int, not {type(threads).__name__}; use 1.")
    if threads < 1:
        raise ValueError(f"`threads` (={threads}) must be at least 1; use 1.")
    where = _present(device)
    bench = _Bench(where, getattr(torch, name), synchronizer(str(where)), clock)
    with torch.no_grad(), _threads(threads):
        noise = bench.noise()
        peak = bench.peak()
        bandwidths = bench.bandwidths()
    return Machine(_processor(where), str(where), name, threads, torch.__version__, peak, bandwidths, noise)


@dataclass(frozen=True)
class _Bench:
    device: torch.device
    dtype: torch.dtype
    synchronize: Callable[[], object] | None
    clock: Clock

    def time(self, calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
        return interleaved(calls, seconds=seconds, synchronize=self.synchronize, clock=self.clock)

    def peak(self) -> float:
        import torch

        dtypes = {self.dtype, torch.float32} if self.dtype.itemsize < torch.float32.itemsize else {self.dtype}
        return max(self._peak(dtype, SECONDS["peak"] / len(dtypes)) for dtype in dtypes)

    def _peak(self, dtype: torch.dtype, seconds: float) -> float:
        best, end = 0.0, self.clock() + seconds
        for size in PRODUCTS["cpu" if self.device.type == "cpu" else "gpu"]:
            flops, left = 2.0 * size**3, end - self.clock()
            if left <= 0 or (best and FEWEST_CALLS * flops / best > left):
                break
            timings = self.time(self._products(size, dtype), left / 2)
            best = max(best, *(flops / min(timing.samples) for timing in timings.values()))
        return best

    def _products(self, size: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
        import torch

        a, b = (torch.ones(size, size, dtype=dtype, device=self.device) for _ in range(2))
        out = torch.empty_like(a)
        calls: dict[str, Callable[[], object]] = {"matrix product": lambda: torch.mm(a, b, out=out)}
        if self.device.type != "cpu":
            # On GPUs torch lets convolutions round float32 to TF32 where matrix products may not, so the peak that
            # bounds convolutions is that of a pointwise one.
            x = a.reshape(1, 32, size // 32, size).permute(0, 3, 1, 2)
            weight = b.reshape(size, size, 1, 1).to(memory_format=torch.channels_last)
            calls["pointwise convolution"] = lambda: torch.conv2d(x, weight)
        return calls

    def bandwidths(self) -> tuple[tuple[float, float], ...]:
        calls = {str(size): self._copy(size) for size in WORKING_SETS}
        timings = self.time(calls, SECONDS["bandwidth"])
        return tuple((float(size), size / min(timings[str(size)].samples)) for size in WORKING_SETS)

    def _copy(self, size: int) -> Callable[[], object]:
        import torch

        source = torch.ones(size // 2 // self.dtype.itemsize, dtype=self.dtype, device=self.device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    def noise(self) -> float:
        import torch

        kernel = self._products(256, torch.float32)["matrix product"]
        timing = self.time({"kernel": kernel}, SECONDS["noise"])["kernel"]
        return timing.iqr / timing.median


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _present(device: torch.device | str) -> torch.device:
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if accelerator else 0
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found and (
        found.type == "cpu" or (accelerator and found.type == accelerator.type and (found.index or 0) < count)
    ):
        return found
    here = ", ".join(["cpu", *(f"{accelerator}:{index}" for index in range(count))])
    raise ValueError(f"`device` (={device}) is not on this machine; use {here}.")


def _processor(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
