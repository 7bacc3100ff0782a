# SPDX-License-Identifier: Apache-2.0
"""Results in files. What stands in a file already is not lost unless that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def write(path: str | Path, text: str, *, overwrite: bool = False) -> Path:
    """Write ``text`` to ``path``, whole or not at all.

    Raises:
        FileExistsError: the file exists, and ``overwrite`` is not set.
    """
    whole = text if text.endswith("\n") else text + "\n"
    return write_by(path, lambda part: part.write_text(whole, encoding="utf-8"), overwrite=overwrite)


def write_by(path: str | Path, fill: Callable[[Path], object], *, overwrite: bool = False) -> Path:
    """Let ``fill`` write a file that then becomes ``path``, whole or not at all.

    Raises:
        FileExistsError: the file exists, and ``overwrite`` is not set.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"`path` (={str(path)!r}) exists; use another, or overwrite=True.")
    part = path.with_name(f".{path.name}.part")
    try:
        fill(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path
