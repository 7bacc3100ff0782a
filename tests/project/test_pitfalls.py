# SPDX-License-Identifier: Apache-2.0
"""Every numbered pitfall has a test that bears its number, or a reason why not; and no test bears another number."""

from __future__ import annotations

import ast
import re

import pytest

from tree import ROOT, tracked

PAGE = ROOT / "docs" / "pitfalls.md"
COUNT = 46
LINK = re.compile(r"\]\(\.\./(tests/[\w/]+\.py)\)")
REASON = re.compile(r"no test: \w.*\w \w.*\w\.")


def rows(page):
    """(number, the other cells) of every numbered row of the page's tables."""
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else [""]
        if cells[0].isdigit():
            yield int(cells[0]), cells[1:]


def marks(source):
    """The numbers that the tests of a file bear, of a file that is parsed and not run."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.pitfall":
            yield from (ast.literal_eval(argument) for argument in node.args)


def complaints(page, sources):
    """What is wrong with the page, beside test files given by their path and text."""
    found = {path: set(marks(text)) for path, text in sources.items()}
    seen = []
    for number, cells in rows(page):
        seen.append(number)
        if len(cells) != 3 or not all(cells):
            yield f"{number}: has not the three cells disagreement, here, held by"
            continue
        held, files = cells[2], LINK.findall(cells[2])
        if not files and not REASON.fullmatch(held):
            yield f"{number}: neither a test nor a reason"
        for file in files:
            if file not in found:
                yield f"{number}: {file} is no test file"
            elif number not in found[file]:
                yield f"{number}: no test of {file} bears it"
        bearing = sorted(path for path, numbers in found.items() if number in numbers)
        if bearing and not files:
            yield f"{number}: is said to have no test, and {bearing[0]} has one"
    if seen != list(range(1, COUNT + 1)):
        yield f"the numbers are not 1 to {COUNT} in order: {seen}"
    for path, numbers in sorted(found.items()):
        for number in sorted(numbers - set(seen), key=str):
            yield f"{path}: bears {number!r}, which the page does not know"


def test_the_page_and_the_tests_agree():
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in tracked(".py") if "test" in path.name}
    found = list(complaints(PAGE.read_text(), sources))
    assert not found, "\n".join(found)
    assert len({number for text in sources.values() for number in marks(text)}) > 35


def good():
    """A page and a test file without fault."""
    lines = [f"| {n} | what | here | [a](../tests/test_a.py) |" for n in range(1, COUNT)]
    page = "\n".join(["# Title", "", "| | a | b | c |", "|---|---|---|---|", *lines])
    page += f"\n| {COUNT} | what | – | no test: it is not offered. |\n"
    numbers = ", ".join(map(str, range(2, COUNT)))
    source = f"@pytest.mark.pitfall(1)\ndef test_a(): ...\n\n@pytest.mark.pitfall({numbers})\ndef test_b(): ...\n"
    return page, {"tests/test_a.py": source}


def test_accepts_what_is_right():
    assert list(complaints(*good())) == []


FAULTS = {
    "a row is missing": ("| 7 | what | here | [a](../tests/test_a.py) |\n", "", "not 1 to 46"),
    "a row stands twice": ("| 7 |", "| 6 |", "not 1 to 46"),
    "no test and no reason": ("| 7 | what | here | [a](../tests/test_a.py) |", "| 7 | what | here | – |", "neither"),
    "a reason that says nothing": ("no test: it is not offered.", "no test: no.", "46: neither a test nor a reason"),
    "an empty cell": ("| 7 | what | here |", "| 7 | what | |", "7: has not the three cells"),
    "a file that is not there": ("here | [a](../tests/test_a.py)", "here | [a](../tests/test_b.py)", "is no test file"),
    "a reason beside a test": ("here | [a](../tests/test_a.py)", "– | no test: not offered yet.", "has one"),
}


@pytest.mark.parametrize(("old", "new", "complaint"), FAULTS.values(), ids=FAULTS)
def test_refuses_a_page(old, new, complaint):
    page, sources = good()
    assert old in page
    assert complaint in "\n".join(complaints(page.replace(old, new, 1), sources))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("pitfall(1)", "pitfall(47)", "bears 47, which the page does not know"),
        ("pitfall(1)", "pitfall('1')", "bears '1', which the page does not know"),
        ("pitfall(1)", "slow", "1: no test of tests/test_a.py bears it"),
        ("@pytest.mark.pitfall(1)", "# pytest.mark.pitfall(1)", "1: no test of tests/test_a.py bears it"),
        ("pitfall(1)", "pitfall(46)", "46: is said to have no test, and tests/test_a.py has one"),
    ],
)
def test_refuses_tests(old, new, complaint):
    page, sources = good()
    assert complaint in "\n".join(complaints(page, {path: text.replace(old, new) for path, text in sources.items()}))
