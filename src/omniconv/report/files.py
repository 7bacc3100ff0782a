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
    text = text if text.endswith("\n") else text + "\n"
    if not overwrite:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise FileExistsError(f"`path` (={str(path)!r}) exists; use another, or overwrite=True.") from None
        return path
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path
