# SPDX-License-Identifier: Apache-2.0
"""What stands in the repository, for the tests about the project itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "omniconv"


def tracked(*suffixes):
    """The files of the project with one of these suffixes: in git, or new and not ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = (ROOT / line for line in listing.stdout.splitlines())
    return sorted(path for path in found if path.suffix in suffixes and path.is_file())


def families():
    """The names of the family folders."""
    return sorted(path.parent.name for path in (PACKAGE / "ops").glob("*/__init__.py"))
