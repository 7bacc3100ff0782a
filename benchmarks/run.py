# SPDX-License-Identifier: Apache-2.0
"""Time every family on this machine beside what else computes it, and say what was reached of what is meant.

python benchmarks/run.py --rt                all problems; writes results/<version>/<machine>.json
python benchmarks/run.py depthwise           those whose name, group or problem string matches; writes nothing
python benchmarks/compare.py OLD NEW         what changed between two result files
python benchmarks/targets.py FILE            what a result file reached
python benchmarks/chart.py FILE              its chart
python benchmarks/memory.py                  the memory of training steps
python benchmarks/networks.py                a trained network
python benchmarks/inverted.py                inverted residuals in one call, and by their parts

`omniconv bench` is the same without the file and the targets, and has more options.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from omniconv import bench
from omniconv.report.files import write
from results import HERE, path_for
from targets import reached


def commit() -> str:
    """The commit that was measured, with a + where files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"


def say(text: str) -> None:
    """Tell on stderr what is being done."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run, print, write; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("regex", nargs="?", default="", help="which problems; all of them without it")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each problem")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rt", action="store_true", help="real-time scheduling while timing")
    parser.add_argument("-o", "--output", type=Path, help="result file; none is written by default when only some run")
    options = parser.parse_args(arguments)
    asked = {"seconds": options.seconds, "threads": options.threads, "rt": options.rt}
    try:
        found = replace(bench(options.regex, **asked, report=say, warn=say), commit=commit())
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    content = found.to_dict()
    print(found, *reached(content["rows"]), sep="\n")
    output = options.output or (None if options.regex else path_for(found.version, found.machine))
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        say(f"wrote {write(output, found.to_json(), overwrite=True)}")
    return int(bool(found.wrong))


if __name__ == "__main__":
    sys.exit(main())
