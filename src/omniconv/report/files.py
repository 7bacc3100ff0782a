# SPDX-License-Identifier: Apache-2.0
"""Results in files. What stands in a file already is not lost unless that is asked for."""

from __future__ import annotations

from pathlib import Path


def write(path: str | Path, text: str, *, overwrite: bool = False) -> Path:
    """Write ``text`` to ``path``, whole or not at all.

    Raises:
        FileExistsError: the file exists, and ``overwrite`` is not set.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"`path` (={str(path)!r}) exists; use another, or overwrite=True.")
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return path
