# SPDX-License-Identifier: Apache-2.0
"""The compiled library: where it is, or why it is not used. Everything but loading it works without torch."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path

HIDDEN = "OMNICONV_NATIVE=0 hides the compiled library"
_answer: str | None = None


def path() -> Path | None:
    """The library's file, if there is one: ``OMNICONV_LIBRARY``, or the one that was built with the package."""
    other = os.environ.get("OMNICONV_LIBRARY")
    if other:
        return Path(other)
    found = find_spec("omniconv._C")
    return Path(found.origin) if found and found.origin else None


def absent() -> str:
    """Why there are no compiled kernels, or "" where there are."""
    global _answer  # noqa: PLW0603  # looked for once: a trace must not ask for files
    if os.environ.get("OMNICONV_NATIVE", "").lower() in ("0", "false", "no", "off"):
        return HIDDEN
    if _answer is None:
        _answer = _look()
    return _answer


def _look() -> str:
    where = path()
    if where is None:
        return "the compiled library was not built"
    return "" if where.exists() else f"there is no {where}"


def load() -> None:
    """Load the library into torch, or say once in a warning why everything computes through ATen instead."""
    global _answer  # noqa: PLW0603
    if not absent():
        import torch

        try:
            torch.ops.load_library(str(path()))
            torch.ops.omniconv.isa()
        except (OSError, RuntimeError) as error:
            said = str(error).splitlines()[0]
            if "`OMNICONV_ISA`" in said:
                raise ValueError(said[said.index("`OMNICONV_ISA`") :]) from None
            _answer = f"the compiled library does not load ({said})"
    if absent() not in ("", HIDDEN):
        warnings.warn(
            f"omniconv: {absent()}; everything computes through ATen, with the same results, often slower. "
            "See `omniconv doctor`.",
            RuntimeWarning,
            stacklevel=2,
        )


def isa() -> str:
    """The instruction set whose kernels run: v2, v3 or v4 of x86-64, or base; "" without a library."""
    if absent():
        return ""
    import torch

    return str(torch.ops.omniconv.isa())
