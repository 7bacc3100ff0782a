# SPDX-License-Identifier: Apache-2.0
"""The tables in the pages of the reference networks: what each costs by family, and its receptive field.

python benchmarks/network_pages.py [--write] [PAGE ...]

A page says with ``<!-- cost: NAME, NAME -->`` which networks it is about; the tables stand from there to
``<!-- /cost -->``. They are printed, or with ``--write`` put into the pages.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from omniconv.models.catalogue import NETWORKS
from reference_networks import counted, field_text, input_text

if TYPE_CHECKING:
    from omniconv.analysis.profiling.result import Profile

PAGES = Path(__file__).parents[1] / "docs" / "models"
MARKED = re.compile(r"(?P<head><!-- cost: (?P<names>\w+(?:, \w+)*) -->\n).*?(?P<foot><!-- /cost -->)", re.DOTALL)
TOTALS = ("network", "input", "parameters", "multiply-adds", "receptive field", "stride")
FAMILIES = ("network", "family", "calls", "parameters", "multiply-adds", "share")


def networks(text: str) -> list[str]:
    """The networks that a page is about.

    Raises:
        ValueError: it names none, or one that there is not.
    """
    found = [name for mark in MARKED.finditer(text) for name in mark["names"].split(", ")]
    unknown = [name for name in found if name not in NETWORKS]
    if unknown or not found:
        raise ValueError(f"no network {unknown[0]!r}" if unknown else "no <!-- cost: NAME --> … <!-- /cost -->")
    return found


def renewed(text: str) -> str:
    """The page with tables of today."""
    return MARKED.sub(lambda mark: f"{mark['head']}{tables(mark['names'].split(', '))}\n{mark['foot']}", text)


def tables(names: list[str]) -> str:
    """The networks' totals, then their families; the column of names is left out where there is one."""
    totals, families, apart = [], [], []
    for name in names:
        found, field = _counted(name)
        totals.append((f"`{name}`", input_text(name), f"{found.params:,}", f"{found.macs:,}", *field_text(name, field)))
        families += [(f"`{name}`", *line) for line in by_family(found)]
        said = [f"{found.sampling:,} multiply-adds of sampling"] if found.sampling else []
        said += [f"{found.exponentials:,} exponentials"] if found.exponentials else []
        apart += [f"`{name}` {' and '.join(said)}"] if said else []
    first = 0 if len(names) > 1 else 1
    parts = [table(TOTALS, totals), table(FAMILIES[first:], [line[first:] for line in families])]
    return "\n".join([*parts, f"Counted apart: {', '.join(apart)}.\n"] if apart else parts)


def by_family(found: Profile) -> Iterator[tuple[str, ...]]:
    """A line for each family, largest first, then for what belongs to none."""
    calls, params = Counter(row.family for row in found.rows), Counter[str]()
    for row in found.rows:
        params[row.family] += row.params
    for family, macs in found.by_family.items():
        yield family, str(calls[family]), f"{params[family]:,}", f"{macs:,}", f"{macs / found.macs:.2%}"
    rest = found.params - sum(params[family] for family in found.by_family)
    if rest:
        yield "other", "", f"{rest:,}", "", ""


def table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Markdown."""
    return "".join(f"{line}\n" for line in (_line(head), "|---" * len(head) + "|", *map(_line, lines)))


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


_counted = cache(counted)


def main(arguments: list[str]) -> int:
    """Print the tables of each page, or write them into it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="of docs/models; all by default")
    parser.add_argument("--write", action="store_true", help="put the tables into the pages")
    options = parser.parse_args(arguments)
    for page in options.pages or sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        try:
            names = networks(text)
        except ValueError as error:
            parser.error(f"{page}: {error}")
        if options.write:
            page.write_text(renewed(text), encoding="utf-8")
            print(page, flush=True)
        else:
            print(tables(names), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
