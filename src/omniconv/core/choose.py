# SPDX-License-Identifier: Apache-2.0
"""Which kernel runs a problem, and in one sentence each why not the others. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .family import Kernel, family_of
from .library import absent
from .problem import ConvProblem

COMPILED_TYPES = ("float32", "bfloat16")
MOST_CHANNELS_A_GROUP = 16
LEAST_BROAD_GROUP = {"bfloat16": 8, "float32": 16}
MOST_LEFT_TAPS = 7
LEAST_TILED_CHANNELS = 16


@dataclass(frozen=True)
class Choice:
    """The kernel that runs, and the sentence of every faster one that refused.

    ``portable`` is the first that is made of ATen calls: it runs where the compiled kernels have no say, in other types
    than float32 and bfloat16, on other devices than a CPU, and under the transforms of ``torch.func``.
    """

    kernel: Kernel
    portable: Kernel
    refused: tuple[tuple[str, str], ...]

    @property
    def reason(self) -> str:
        """Why this kernel: what it is, and what the ones before it said."""
        said = "".join(f" Not {name}: {why}" for name, why in self.refused)
        return f"{self.kernel.name}: {self.kernel.summary}{said}"


def choose(problem: ConvProblem, dtype: str = "float32", device: str = "cpu") -> Choice:
    """Return the first kernel of the problem's family that does not refuse it, nor a type or a device."""
    refused: list[tuple[str, str]] = []
    chosen = None
    for kernel in family_of(problem).kernels:
        if chosen and kernel.compiled:
            continue
        why = kernel.refuse(problem)
        if why is None and kernel.compiled:
            why = _cannot_run(dtype, device)
        if why is None:
            chosen = chosen or kernel
            if not kernel.compiled:
                return Choice(chosen, kernel, tuple(refused))
        elif chosen is None:
            refused.append((kernel.name, why))
    raise RuntimeError(f"every kernel of {problem.family!r} refused {problem}: {refused}")


def _cannot_run(dtype: str, device: str) -> str | None:
    """Why no kernel of the compiled library runs."""
    if dtype not in COMPILED_TYPES:
        return f"it computes {' and '.join(COMPILED_TYPES)}, and this is {dtype}."
    if not device.startswith("cpu"):
        return f"it runs on a CPU, and this is {device}."
    missing = absent()
    return f"{missing}." if missing else None


def wide_groups(problem: ConvProblem) -> str | None:
    """The ``refuse`` of kernels for depthwise convolutions and groups of few channels."""
    if problem.groups == 1:
        return "every channel meets every other, which oneDNN does near the machine's limit."
    channels = max(problem.in_channels, problem.out_channels) // problem.groups
    if channels > MOST_CHANNELS_A_GROUP:
        return f"the groups have {channels} channels; past {MOST_CHANNELS_A_GROUP} oneDNN is near the machine's limit."
    return None


@cache
def multiplies_tiles() -> bool:
    """Whether the processor multiplies tiles of bfloat16 (AMX), as oneDNN does: up to four times float32's rate."""
    try:
        return " amx_bf16 " in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def broad_groups(problem: ConvProblem) -> tuple[str, ...]:
    """The ``leaves`` of kernels for groups: the types in which oneDNN's products of so many channels are faster.

    Of images; in bfloat16 under usual kernels, because oneDNN 3.12 computes wrong sums, or reads memory that is not its
    own, under some of those that reach across an image (docs/decisions/0004).
    """
    if problem.groups == 1:  # pointwise
        broad = min(problem.in_channels, problem.out_channels) >= LEAST_TILED_CHANNELS
        return ("bfloat16",) if problem.dim > 1 and broad and multiplies_tiles() else ()
    if problem.dim != 2:
        return ()
    channels = min(problem.in_channels, problem.out_channels) // problem.groups
    usual = max(problem.dilation) == 1 and max(problem.kernel_size) <= MOST_LEFT_TAPS
    least = LEAST_BROAD_GROUP if usual else {"float32": LEAST_BROAD_GROUP["float32"]}
    return tuple(dtype for dtype in least if channels >= least[dtype])


def needs_zeros(problem: ConvProblem) -> str | None:
    """The ``refuse`` of kernels that pad by any amounts, with zeros."""
    if problem.padding_mode != "zeros":
        return f"it pads with zeros only, and the padding mode is {problem.padding_mode!r}."
    return None


def needs_even_zeros(problem: ConvProblem) -> str | None:
    """The ``refuse`` of kernels that hand the padding to ATen's convolution: zeros, one fixed number an axis."""
    if problem.padding_mode != "zeros":
        return f"ATen's convolution pads with zeros only, and the padding mode is {problem.padding_mode!r}."
    if not problem.fixed_pads:
        return "the padding depends on the input size, and ATen's convolution takes fixed numbers."
    if any(before != after for before, after in problem.pads()):
        return f"the padding {problem.pads()} is not the same on both sides, and ATen takes one number an axis."
    return None
