# SPDX-License-Identifier: Apache-2.0
"""Result files: where they lie, and how a script reads one."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from omniconv.analysis.benchmark.result import SCHEMA
from omniconv.analysis.timing import Timing
from omniconv.report.files import write

HERE = Path(__file__).parent


def path_for(version: str, machine: dict[str, Any]) -> Path:
    """Where the results of a version on a machine are kept."""
    words = f"{machine['name']} {machine['device']} {machine['threads']}t"
    return HERE / "results" / version / (re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") + ".json")


def keep(result: dict[str, Any], kind: str, output: Path | None) -> Path:
    """Write a result of a kind, where it is kept or to ``output``; the place.

    Args:
        result: with its ``version`` and ``machine``.
        kind: the word that begins the file's name.
        output: another place, or None.
    """
    kept = path_for(result["version"], result["machine"])
    place = output or kept.with_name(f"{kind}-{kept.name}")
    place.parent.mkdir(parents=True, exist_ok=True)
    return write(place, json.dumps(result, indent=1), overwrite=True)


def spread(timing: Timing, unit: float) -> dict[str, float]:
    """A median between its quartiles, as a result has it."""
    return {name: unit * getattr(timing, name) for name in ("median", "q1", "q3")}


def read(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The content of a result file; a usage error where it is none of this schema."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        parser.error(f"{path}: {error}")
    if content.get("schema") != SCHEMA:
        parser.error(f"{path}: `schema` (={content.get('schema')}) must be {SCHEMA}; measure again.")
    return content
