# SPDX-License-Identifier: Apache-2.0
"""What changed between two result files of one machine.

    python benchmarks/compare.py OLD.json NEW.json [--fail-above 1.1]

Where torch was timed beside omniconv, the ratio to it is compared instead of the time: it was taken within each round,
so a machine that ran slower as a whole does not show as a regression. Overlapping intervals count as unchanged.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

SCHEMA = 1
SAME = ("name", "device", "dtype", "threads")


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every problem of either file: its factor new / old, and what to call it."""
    before = {(row["name"], row["problem"]): row for row in old["rows"]}
    after = {(row["name"], row["problem"]): row for row in new["rows"]}
    return [
        {"name": key[0], "problem": key[1]} | _change(before.get(key), after.get(key))
        for key in dict.fromkeys([*before, *after])
    ]


def _change(old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    for row, which in ((old, "added"), (new, "removed")):
        if row is None:
            return {"verdict": which, "factor": None}
    if "ms" not in old or "ms" not in new:
        same = ("ms" in old) == ("ms" in new) and ("wrong" in old) == ("wrong" in new)
        return {"verdict": "not timed" if same else "wrong" if "wrong" in new else "changed", "factor": None}
    quantity = "over_torch" if "over_torch" in old and "over_torch" in new else "ms"
    a, b = old[quantity], new[quantity]
    factor = b["median"] / a["median"]
    apart = a["q3"] < b["q1"] or b["q3"] < a["q1"]
    noisy = old["noisy"] or new["noisy"]
    verdict = "noisy" if noisy else "≈" if not apart else "slower" if factor > 1 else "faster"
    return {"verdict": verdict, "factor": factor, "of": quantity}


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison; 3 if something became slower than allowed, or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--fail-above", type=float, metavar="FACTOR", help="exit 3 where a problem became slower")
    options = parser.parse_args(arguments)
    files = []
    for path in (options.old, options.new):
        try:
            files.append(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            parser.error(f"{path}: {error}")
        if files[-1].get("schema") != SCHEMA:
            parser.error(f"{path}: `schema` (={files[-1].get('schema')}) must be {SCHEMA}; measure again.")
    old, new = files
    for field in SAME:
        if old["machine"][field] != new["machine"][field]:
            values = f"{old['machine'][field]!r} and {new['machine'][field]!r}"
            parser.error(f"`{field}` differs ({values}): times of two machines cannot be compared.")
    rows = changes(old, new)
    print(f"{old['version']} {old['commit']} → {new['version']} {new['commit']} on {new['machine']['name']}\n")
    for row in rows:
        factor = "" if row["factor"] is None else f"× {row['factor']:.2f} {row['of']}"
        print(f"{row['verdict']:9} {factor:20} {row['name']:24} {row['problem']}")
    limit = options.fail_above
    lost = [r for r in rows if r["verdict"] == "wrong" or (limit and r["verdict"] == "slower" and r["factor"] > limit)]
    return 3 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
