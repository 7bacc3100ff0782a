# SPDX-License-Identifier: Apache-2.0
"""What changed between two result files of one machine.

    python benchmarks/compare.py OLD.json NEW.json [--fail-above 1.1]

Where eager torch was timed beside omniconv in both, the ratio to it is compared instead of the time: it was taken
within each round, so a machine that ran slower as a whole does not show as a regression. Overlapping intervals count as
unchanged.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from results import read

SAME = ("name", "device", "threads")
Row = dict[str, Any]


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Row]:
    """A row for every problem of either file: its factor new / old, and what to call it."""
    before, after = ({(row["name"], row["problem"]): row for row in found["rows"]} for found in (old, new))
    return [
        {"name": key[0], "problem": key[1]} | _change(before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
    ]


def _change(old: Row | None, new: Row | None) -> Row:
    for row, which in ((old, "added"), (new, "removed")):
        if row is None:
            return {"verdict": which, "factor": None}
    if "ms" not in old or "ms" not in new:
        verdict = "wrong" if "ms" not in new else "right again"
        return {"verdict": verdict, "factor": None}
    (a, b), quantity = _quantities(old, new)
    factor = b["median"] / a["median"]
    apart = a["q3"] < b["q1"] or b["q3"] < a["q1"]
    verdict = "noisy" if old["noisy"] or new["noisy"] else "≈" if not apart else "slower" if factor > 1 else "faster"
    return {"verdict": verdict, "factor": factor, "of": quantity}


def _quantities(old: Row, new: Row) -> tuple[list[dict[str, float]], str]:
    """What is compared, the more the slower: the times over torch's where both have them, else the times."""
    beside = [row["peers"].get("torch", {}).get("speedup") for row in (old, new)]
    if None in beside:
        return [old["ms"], new["ms"]], "ms"
    return [{"q1": 1 / s["q3"], "median": 1 / s["median"], "q3": 1 / s["q1"]} for s in beside], "over torch"


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison; 3 if something became slower than allowed, or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--fail-above", type=float, metavar="FACTOR", help="exit 3 where a problem became slower")
    options = parser.parse_args(arguments)
    old, new = (read(path, parser) for path in (options.old, options.new))
    for field in SAME:
        if old["machine"][field] != new["machine"][field]:
            values = f"{old['machine'][field]!r} and {new['machine'][field]!r}"
            parser.error(f"`{field}` differs ({values}): times of two machines cannot be compared.")
    rows = changes(old, new)
    print(f"{old['version']} {old['commit']} → {new['version']} {new['commit']} on {new['machine']['name']}\n")
    for row in rows:
        factor = "" if row["factor"] is None else f"× {row['factor']:.2f} {row['of']}"
        print(f"{row['verdict']:11} {factor:20} {row['name']:36} {row['problem']}")
    limit = options.fail_above
    lost = [r for r in rows if r["verdict"] == "wrong" or (limit and r["verdict"] == "slower" and r["factor"] > limit)]
    return 3 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
