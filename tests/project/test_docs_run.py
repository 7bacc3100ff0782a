# SPDX-License-Identifier: Apache-2.0
"""Every ``python`` block of every page and every example of a public docstring runs, and the checks in it hold."""

import doctest
import re
import sys

import pytest
import torch

from omniconv.core.family import families
from tree import ROOT, tracked

FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [page for page in tracked(".md") if FENCE.search(page.read_text(encoding="utf-8"))]
NAMES = [(family.name, name) for family in families().values() for name in (*family.layers, *family.functions)]


def run_page(text: str, name: str) -> None:
    """Run the blocks of one page in order, as one program whose line numbers are those of the page."""
    program = ["\n"] * text.count("\n")
    for block in FENCE.finditer(text):
        first = text[: block.start(1)].count("\n")
        for number, line in enumerate(block[1].splitlines(keepends=True)):
            program[first + number] = line
    exec(compile("".join(program), name, "exec"), {"__name__": "page"})  # noqa: S102  # the project's own pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page):
    run_page(page.read_text(encoding="utf-8"), str(page))


def test_a_false_statement_on_a_page_is_caught():
    with pytest.raises(AssertionError):
        run_page("# A page\n\n```python\nassert 3 * 3 == 10\n```\n", "page")


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_docstring_says_what_its_reader_needs(family, name):
    module = families()[family].part("layer")
    text = getattr(module, name).__doc__
    assert text, f"{name} has no docstring"
    if name[0].isupper():
        missing = [part for part in ("Shape:", "Raises:", "Source:", "Example:") if part not in text]
        assert not missing, f"{name} lacks {missing}"


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_docstring_example_runs(family, name):
    module = families()[family].part("layer")
    shown = getattr(module, name)
    known = {**vars(module), **vars(sys.modules[shown.__module__]), "torch": torch}
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in finder.find(shown, name, globs=known):
        runner.run(test)
    assert runner.summarize().failed == 0
