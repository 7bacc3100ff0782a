# SPDX-License-Identifier: Apache-2.0
"""The steps of CONTRIBUTING.md, followed: a folder and one line make a family that everything else finds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from omniconv.core import library
from tree import ROOT

SAMPLE = Path(__file__).parent / "sample_family"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with the sample family added by the steps, and nothing else."""
    copy = tmp_path_factory.mktemp("project")
    without_caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=without_caches)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=without_caches)
    shutil.copy(ROOT / "pyproject.toml", copy)
    shutil.copytree(SAMPLE, copy / "src/omniconv/ops/blur", ignore=without_caches)
    registry = copy / "src/omniconv/ops/__init__.py"
    before = registry.read_text(encoding="utf-8")
    after = before.replace('    "conv",\n', '    "conv",\n    "blur",\n')
    assert len(after.splitlines()) == len(before.splitlines()) + 1, "adding a family is one line"
    registry.write_text(after, encoding="utf-8")
    for finder in sys.meta_path:  # an editable install finds its own files first, whatever PYTHONPATH says
        if type(finder).__module__.startswith("_editable"):
            (copy / "src" / f"{type(finder).__module__}.py").write_text("", encoding="utf-8")
    return copy


def run(project, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(project / "src"), "OMNICONV_LIBRARY": str(library.path() or "")}
    environment = {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_command_line_finds_it(project):
    rows = json.loads(run(project, "-m", "omniconv", "compare", "16", "16", "8", "--json"))["rows"]
    blur = next(row for row in rows if row["family"] == "blur")
    assert (blur["params"], blur["macs"], len(rows)) == (0, 16 * 9 * 64, 12)


def test_the_contract_holds_it(project):
    checks = "test_values or test_shapes or test_cost or test_gradients or test_errors or test_layouts"
    output = run(
        project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", f"blur and ({checks})", "tests/contract"
    )
    passed = next(line for line in output.splitlines()[::-1] if " passed" in line)
    assert int(passed.split(" passed")[0].split()[-1]) >= 30, output
    assert "failed" not in passed, output


def test_its_names_are_public(project):
    run(project, "-c", "import torch, omniconv; omniconv.nn.BlurPool2d(3)(torch.ones(1, 3, 8, 8))")


def test_it_is_the_copy_that_runs(project):
    where = run(project, "-c", "import omniconv.core.library as l; print(l.__file__, l.absent())").split()
    assert where[0] == str(project / "src/omniconv/core/library.py")
    assert " ".join(where[1:]) == library.absent()
