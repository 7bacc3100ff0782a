# SPDX-License-Identifier: Apache-2.0
"""What this installation is, what the machine can do at best, how steady it is, and what is missing."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import omniconv
from omniconv.analysis.comparison.compare import BYTES
from omniconv.core.family import families
from omniconv.core.numbers import one_of
from omniconv.report.grid import Line, fields
from omniconv.report.numbers import digits, percent, short
from omniconv.report.result import Result
from omniconv.report.words import say

# A requirement as metadata has it: `numpy>=1.26; extra == "examples"`.
_REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+).*?;.*extra == ['\"]([^'\"]+)['\"]")


@dataclass(frozen=True, repr=False)
class Checkup(Result):
    """What was found.

    Attributes:
        versions: of omniconv, Python, torch, click and rich; None for what is not installed.
        torch: how torch was built and what it uses; None without torch.
        devices: where tensors can live.
        machine: peak, bandwidths and noise, measured; None without torch.
        kernels: the ways to compute each family, fastest first.
        missing: packages of each extra that are not installed.
    """

    versions: dict[str, str | None]
    torch: dict[str, Any] | None
    devices: tuple[str, ...]
    machine: dict[str, Any] | None
    kernels: dict[str, tuple[str, ...]]
    missing: dict[str, tuple[str, ...]]

    @property
    def healthy(self) -> bool:
        """Whether everything that omniconv needs is there."""
        return None not in self.versions.values()

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "versions": self.versions,
            "torch": self.torch,
            "devices": list(self.devices),
            "machine": self.machine,
            "kernels": {name: list(kernels) for name, kernels in self.kernels.items()},
            "missing": {extra: list(names) for extra, names in self.missing.items()},
        }

    def pairs(self, lang: str = "en") -> list[tuple[str, str]]:
        """The facts by name."""
        found = [(name, version or say("not installed", lang)) for name, version in self.versions.items()]
        found += [(name, str(value)) for name, value in (self.torch or {}).items()]
        found.append((say("devices", lang), ", ".join(self.devices)))
        if self.machine is not None:
            found += _measured(self.machine, lang)
        found += [(f"{say('kernels', lang)} {name}", ", ".join(kernels)) for name, kernels in self.kernels.items()]
        lack = [f"{extra}: {', '.join(names)}" for extra, names in self.missing.items() if names]
        found.append((say("missing extras", lang), "; ".join(lack) or say("none", lang)))
        return found

    def to_records(self) -> list[dict[str, Any]]:
        return [{"fact": name, "value": text} for name, text in self.pairs()]

    def lines(self, width: int | None = None, lang: str = "en") -> list[Line]:
        return fields(self.pairs(lang), width)


def doctor(
    device: str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    report: Callable[[str], None] | None = None,
) -> Checkup:
    """Look at the installation and measure the machine, which takes about three seconds.

    Args:
        device, dtype, threads: where and in what to measure.
        report: told what is being done.

    Raises:
        TypeError, ValueError: as :func:`omniconv.analysis.machine.measure_machine`.
    """
    one_of("dtype", dtype, tuple(BYTES))
    versions: dict[str, str | None] = {"omniconv": omniconv.__version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in ("torch", "click", "rich")}
    kernels = {name: tuple(kernel.name for kernel in family.kernels) for name, family in families().items()}
    if versions["torch"] is None:
        return Checkup(versions, None, (), None, kernels, _missing())
    if report is not None:
        report("measuring the machine")
    from omniconv.analysis.machine import measure_machine

    machine = measure_machine(dtype, device, threads).to_dict()
    return Checkup(versions, _torch(), _devices(), machine, kernels, _missing())


def _measured(machine: dict[str, Any], lang: str) -> list[tuple[str, str]]:
    rates = [f"{short(rate)}B/s {say('at', lang)} {short(size)}B" for size, rate in machine["bandwidths"]]
    balance = machine["peak"] / machine["bandwidths"][-1][1]
    return [
        (say("machine", lang), f"{machine['name']}, {machine['device']}, {machine['threads']} {say('threads', lang)}"),
        (say("peak", lang), f"{short(machine['peak'])}FLOP/s {machine['dtype']}"),
        (say("bandwidth", lang), ", ".join(rates)),
        (say("balance", lang), f"{digits(balance)} FLOP/byte: {say('balance means', lang)}"),
        (say("noise", lang), percent(machine["noise"])),
    ]


def _torch() -> dict[str, Any]:
    import torch

    return {
        "compiled kernels": _compiled(),
        "torch threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "oneDNN": torch.backends.mkldnn.is_available(),
    }


def _compiled() -> str:
    """For which instruction set kernels run, or why none do."""
    from omniconv.core.library import absent, isa

    try:
        import omniconv.core.register  # noqa: F401  # loads the library
    except ValueError as error:  # of OMNICONV_ISA
        return str(error)
    level = isa()
    return absent() if not level else f"for {level}" if level == "base" else f"for x86-64-{level}"


def _devices() -> tuple[str, ...]:
    import torch

    found = torch.accelerator.current_accelerator(check_available=True)
    return (
        ("cpu",) if found is None else ("cpu", *(f"{found.type}:{n}" for n in range(torch.accelerator.device_count())))
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _missing() -> dict[str, tuple[str, ...]]:
    """Packages that the extras ask for and that are not installed, by extra."""
    try:
        requirements = metadata.requires("omniconv") or []
    except metadata.PackageNotFoundError:
        return {}
    wanted: dict[str, list[str]] = {}
    for text in requirements:
        if match := _REQUIREMENT.match(text):
            wanted.setdefault(match[2], []).append(match[1])
    return {extra: tuple(name for name in names if _version(name) is None) for extra, names in wanted.items()}
