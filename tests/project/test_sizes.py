# SPDX-License-Identifier: Apache-2.0
"""Files short enough to read, with names that say what they hold, and a licence line on top."""

from __future__ import annotations

import re
import statistics

import pytest

from tree import ROOT, tracked

LONGEST = {".py": 400, ".cpp": 600, ".h": 600}
MEDIAN = 150
SAYS_NOTHING = re.compile(r"(utils?|helpers?|common|misc)$")
LICENCE = "SPDX-License-Identifier: Apache-2.0\n"
HEADER = {".py": "# ", ".cpp": "// ", ".h": "// ", "CMakeLists.txt": "# "}


def complaints(where, text):
    """What is wrong with this text, were it to stand at `where` (a path with slashes)."""
    *folders, name = where.split("/")
    stem, _, suffix = name.rpartition(".")
    suffix = f".{suffix}"
    lines = text.count("\n")
    if lines > LONGEST.get(suffix, lines):
        yield f"{lines} lines, more than {LONGEST[suffix]}: split it by idea"
    words = [part for part in [*folders, stem] if SAYS_NOTHING.search(part.lower())]
    if words:
        yield f"the name {words[0]!r} says nothing: name the idea"
    comment = HEADER.get(name, HEADER.get(suffix))
    if comment and text and not text.startswith(comment + LICENCE):
        yield "the first line is not the SPDX licence line"


def test_every_file():
    files = [*tracked(*LONGEST), ROOT / "CMakeLists.txt"]
    found = [
        f"{path.relative_to(ROOT)}: {complaint}"
        for path in files
        for complaint in complaints(path.relative_to(ROOT).as_posix(), path.read_text())
    ]
    assert not found, "\n".join(found)
    median = statistics.median(path.read_text().count("\n") for path in files)
    assert median <= MEDIAN, f"the median file has {median:.0f} lines, more than {MEDIAN}"


HEAD = f"# {LICENCE}"


@pytest.mark.parametrize(
    ("where", "text", "complaint"),
    [
        ("src/omniconv/a.py", HEAD + "x = 1\n" * 400, "401 lines"),
        ("src/omniconv/ops/conv/cpu.cpp", "//\n" * 601, "601 lines"),
        ("src/omniconv/core/utils.py", HEAD, "says nothing"),
        ("src/omniconv/common/padding.py", HEAD, "says nothing"),
        ("tests/conv_helpers.py", HEAD, "says nothing"),
        ("src/omniconv/csrc/rows.h", f"// {LICENCE}" + "//\n" * 600, "601 lines"),
        ("src/omniconv/a.py", "import torch\n", "SPDX"),
        ("src/omniconv/csrc/rows.h", "#pragma once\n", "SPDX"),
        ("src/omniconv/csrc/rows.cpp", HEAD, "SPDX"),
        ("CMakeLists.txt", "project(omniconv)\n", "SPDX"),
    ],
)
def test_refuses(where, text, complaint):
    assert complaint in "; ".join(complaints(where, text))


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("src/omniconv/core/padding.py", HEAD + "x = 1\n" * 399),
        ("src/omniconv/ops/__init__.py", HEAD + "x = 1\n" * 399),
        ("src/omniconv/csrc/rows.h", f"// {LICENCE}" + "//\n" * 599),
        ("CMakeLists.txt", HEAD),
    ],
)
def test_accepts(where, text):
    assert list(complaints(where, text)) == []
