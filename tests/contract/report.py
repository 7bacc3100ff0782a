# SPDX-License-Identifier: Apache-2.0
"""At the end of a test run: how many contract cases ran, by family, and which broken things were rejected."""

from __future__ import annotations

from collections import Counter

from omniconv.ops import NAMES

HERE = "tests/contract/"


def pytest_terminal_summary(terminalreporter):
    cases, failures, rejected = Counter(), Counter(), {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if HERE not in report.nodeid or report.when != "call":
                continue
            properties = dict(report.user_properties)
            if "rejected" in properties:
                rejected.setdefault(properties["rejected"], set()).add(properties["family"])
            elif family := _family(report.nodeid):
                cases[family] += 1
                failures[family] += outcome == "failed"
    if not cases and not rejected:
        return
    write = terminalreporter.write_line
    terminalreporter.section("contract")
    for family in NAMES:
        failed = f", {failures[family]} failed" if failures[family] else ""
        write(f"{family:20} {cases[family]:5} cases{failed}")
    write(f"{'in all':20} {cases.total():5} cases")
    if rejected:
        write(f"{len(rejected)} broken things, each rejected:")
    for name, families in rejected.items():
        where = "every family" if len(families) == len(NAMES) else ", ".join(n for n in NAMES if n in families)
        write(f"  {name} ({where})")


def _family(nodeid):
    """The family that a test's id begins with, if it does."""
    parameters = nodeid.partition("[")[2]
    return next((name for name in NAMES if parameters.startswith(f"{name}-")), None)
