# SPDX-License-Identifier: Apache-2.0
"""The command line as its own process: what it imports, how it ends, and that a pipe gets everything."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest

MAIN = "import sys; from omniconv.cli import main; main()"
# Runs a command line and says on stderr whether torch came along.
WATCHED = """
import sys
from omniconv.cli import cli
try:
    cli.main(sys.argv[1:], prog_name="omniconv")
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "--version",
        "compare --help",
        "explain --help",
        "profile --help",
        "doctor --help",
        "families",
        "compare 64 128 56",
        "compare 64 128 56 --json",
        "compare 64 128 56 --format human",
        "explain transposed 16 8 8 -k 4 -s 2 -p 1 --proof",
        "compare 64 128 0",
    ],
)
def test_no_torch_is_imported(process, line):
    ran = process(WATCHED, *line.split())
    assert ran.stderr.splitlines()[-1] == "False", ran.stderr


@pytest.mark.parametrize(("line", "seconds"), [("--help", 0.3), ("compare 64 128 56", 0.5)])
def test_the_start_is_quick(process, line, seconds):
    """In seconds of the processor, the best of three: what else the machine does is not to be measured."""

    def taken():
        before = os.times()
        assert process(MAIN, *line.split()).returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(taken() for _ in range(3)) < seconds


def test_python_mirror_imports_no_torch(process):
    ran = process("import sys, omniconv; print(omniconv.compare(64, 128, 56)); assert 'torch' not in sys.modules")
    assert ran.returncode == 0, ran.stderr
    assert "depthwise-separable" in ran.stdout


def test_every_command_has_its_python_mirror(process):
    program = """
import sys, omniconv
from omniconv.cli import COMMANDS
assert all(callable(getattr(omniconv, name)) for name in COMMANDS if name not in ("accelerate", "profile"))
assert set(COMMANDS) <= set(dir(omniconv))
assert "torch" not in sys.modules
assert callable(omniconv.profile) and callable(omniconv.accelerate)
print([entry.family for entry in omniconv.families(dim=1).entries], omniconv.doctor.__name__)
"""
    ran = process(program)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("['standard', 'dilated'")
    assert "spatial-separable" not in ran.stdout


def test_python_dash_m(process):
    ran = subprocess.run(
        [sys.executable, "-m", "omniconv", "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    assert re.fullmatch(r"omniconv \d+\.\d+\.\d+\n", ran.stdout)


def test_a_pipe_gets_every_column_uncut(process):
    ran = process(MAIN, "compare", "64", "128", "56", env=os.environ | {"COLUMNS": "20"})
    lines = ran.stdout.splitlines()
    assert len(lines) == 12
    assert len({line.count("\t") for line in lines}) == 1
    assert "depthwise_separable:n1_c64_o128_i56x56_k3x3_pad1_depthwise-bias=0_multiplier=1" in ran.stdout
    assert "\x1b" not in ran.stdout
    assert ran.stderr == ""


@pytest.mark.parametrize("form", ["human", "plain", "csv", "md", "json"])
def test_an_encoding_that_lacks_signs_is_no_error(process, form):
    for encoding in ("ascii", "latin-1"):
        environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        ran = process(MAIN, "compare", "64", "128", "56", "--format", form, env=environment, errors="replace")
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "depthwise" in ran.stdout


def test_a_reader_that_leaves_early_is_no_error():
    shell = f"{sys.executable} -c '{MAIN}' families --format human | head -n 1; echo ${{PIPESTATUS[0]}}"
    for _ in range(3):
        ran = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, timeout=60)
        assert ran.stderr == ""
        assert ran.stdout.splitlines()[0].startswith("standard")
        assert ran.stdout.splitlines()[-1] in ("0", "141")


def test_a_closed_pipe_ends_quietly(process):
    read, write = os.pipe()
    os.close(read)
    ran = subprocess.run(
        [sys.executable, "-c", MAIN, "compare", "64", "128", "56"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(write)
    assert (ran.returncode, ran.stderr) == (141, "")


def test_interrupt_exits_with_130():
    wait = "lambda *a, **k: print('ready', flush=True) or time.sleep(30)"
    slow = f"import time, omniconv.analysis.comparison.compare as c; c.compare = {wait}"
    child = subprocess.Popen(
        [sys.executable, "-c", f"{slow}; {MAIN}", "compare", "64", "128", "56"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert (child.returncode, said) == (130, "interrupted\n")


def test_ascii_output_is_still_json(process):
    ran = process(MAIN, "compare", "64", "128", "56", "--json", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert "64 → 64" in {row["family"]: row["note"] for row in json.loads(ran.stdout)["rows"]}["lightweight"]


def on_terminal(columns, *arguments, **environment):
    """What a terminal of so many columns shows, with its escapes."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    told = os.environ | {"TERM": "xterm-256color"} | environment
    told.pop("COLUMNS", None)
    command = [sys.executable, "-c", MAIN, *arguments]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, env=told)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # which is how a terminal says that nobody writes to it any more
        while more := os.read(ours, 65536):
            shown += more
    os.close(ours)
    assert (child.wait(timeout=30), child.stderr.read()) == (0, b"")
    child.stderr.close()
    return shown.decode()


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("lang", ["en", "ko"])
def test_a_terminal_sees_a_table_that_fits(columns, lang):
    from omniconv.report.grid import cells

    shown = re.sub(r"\x1b\[[0-9;]*[mK]", "", on_terminal(columns, "compare", "64", "128", "56", "--lang", lang, "-q"))
    lines = [line.rstrip("\r") for line in shown.split("\n")]
    assert max(map(cells, lines)) <= columns
    for value in ("73.7 k", "231 M", "0.119", "3×3*", "7.68", "64→64"):
        assert value in shown


@pytest.mark.parametrize(("arguments", "environment"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"})])
def test_colours_can_be_switched_off(arguments, environment):
    # Bold and dim are no colours.
    colours = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert colours.search(on_terminal(80, "compare", "64", "128", "56", "-q"))
    assert not colours.search(on_terminal(80, "compare", "64", "128", "56", "-q", *arguments, **environment))
