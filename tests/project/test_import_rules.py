# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: `core` knows no family, families know `core`, everything else asks the registry.

core                          → core
ops/<family>                  → core, gpu, and the public functions of other families
analysis, convert, cli, …     → core, ops, each other; never one family, by import or by name
tests/contract, benchmarks    → the same
models, nn, functional        → whatever they need: they name families for the user
"""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tree import PACKAGE, ROOT, families, tracked

MAY_NAME_FAMILIES = {"__init__.py", "nn.py", "functional.py", "models", "csrc", "gpu"}
# What a family may take from another: its functions and its formula, not its kernels or its problems.
SHARED_FILES = {"layer", "reference", "cost"}
TORCH_FREE_FILES = {"__init__.py", "cost.py", "cases.py", "benchmarks.py"}
TORCH_FREE_CORE = {"problem.py", "family.py", "benchmarks.py"}


def imports(source, package):
    """Yield (module, imported names, whether importing the file runs it) for each import in a source text."""
    tree = ast.parse(source)
    later = set()
    for node in ast.walk(tree):
        guard = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if guard or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            later.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        now = id(node) not in later
        if isinstance(node, ast.Import):
            yield from ((alias.name, [], now) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield module, [alias.name for alias in node.names], now
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value, [], now


def reached(source, package):
    """Yield every module that a source text may be asking for, `from a import b` as both a and a.b."""
    for module, names, now in imports(source, package):
        yield module, now
        yield from ((f"{module}.{name}", now) for name in names)


def within(module, *packages):
    return any(module == package or module.startswith(package + ".") for package in packages)


def mentions(source, names):
    """The string literals of a source text, docstrings apart, that are one of these names."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    spelled = {spelling for name in names for spelling in (name, name.replace("_", "-"))}
    literals = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return sorted({node.value for node in literals if isinstance(node.value, str) and node.value in spelled})


def complaints(where, source, known):
    """What this source text breaks, were it to stand at `where` in a library with the families `known`."""
    parts = where.removeprefix("src/").split("/")
    package = parts[:-1]
    modules = list(reached(source, package))
    if where.startswith("src/omniconv/core/"):
        yield from _core(parts, modules)
    elif where.startswith("src/omniconv/ops/") and len(parts) > 3:
        yield from _family(parts, modules, source, package)
    elif where.startswith("src/omniconv/ops/") or (where.startswith("src/") and parts[1] in MAY_NAME_FAMILIES):
        return
    elif where.startswith(("src/omniconv/", "tests/contract/", "benchmarks/")):
        yield from _horizontal(modules, source, known)


def _core(parts, modules):
    for module, now in modules:
        if within(module, "omniconv.ops") and (now or module not in {"omniconv.ops", "omniconv.ops.NAMES"}):
            yield f"core imports {module}"
    if parts[2] in TORCH_FREE_CORE:
        yield from (f"{parts[2]} imports {module}" for module, now in modules if now and within(module, "torch"))


def _family(parts, modules, source, package):
    own = ".".join(package[:3])
    if parts[-1] in TORCH_FREE_FILES:
        yield from (f"{parts[-1]} imports {module}" for module, now in modules if now and within(module, "torch"))
    for module, names, _ in imports(source, package):
        allowed = ("omniconv.core", "omniconv.gpu", "omniconv.ops", "omniconv.functional", "omniconv.nn", own)
        if within(module, "omniconv") and module != "omniconv" and not within(module, *allowed):
            yield f"a family imports {module}"
        if within(module, "omniconv.ops") and not within(module, own):
            tail = module.split(".")[3:]
            private = [name for name in names if name.startswith("_")]
            if private or (tail and tail[0] not in SHARED_FILES):
                yield f"a family imports what is private to another: {module} {', '.join(private)}".rstrip()


def _horizontal(modules, source, known):
    folders = [f"omniconv.ops.{name}" for name in known]
    yield from (f"imports one family: {module}" for module, _ in modules if within(module, *folders))
    yield from (f"names one family: {name!r}" for name in mentions(source, known))


def test_every_file_keeps_the_rules():
    files = tracked(".py")
    found = [
        f"{path.relative_to(ROOT)}: {complaint}"
        for path in files
        for complaint in complaints(path.relative_to(ROOT).as_posix(), path.read_text(), families())
    ]
    assert not found, "\n".join(found)
    assert len(files) > 10


BAD = [
    ("src/omniconv/core/layer.py", "from omniconv.ops import FAMILIES", "core imports omniconv.ops"),
    ("src/omniconv/core/layer.py", "from ..ops.conv import layer", "core imports omniconv.ops.conv"),
    ("src/omniconv/core/layer.py", "def f():\n    import omniconv.ops.conv", "core imports omniconv.ops.conv"),
    ("src/omniconv/core/layer.py", "def f():\n    from ..ops import conv", "core imports omniconv.ops.conv"),
    ("src/omniconv/core/problem.py", "import torch.nn as nn", "problem.py imports torch.nn"),
    ("src/omniconv/core/family.py", "try:\n    from torch import Tensor\nexcept ImportError: ...", "imports torch"),
    ("src/omniconv/ops/conv/cost.py", "import torch", "cost.py imports torch"),
    ("src/omniconv/ops/conv/__init__.py", "class A:\n    from torch import nn", "__init__.py imports torch"),
    ("src/omniconv/ops/conv/layer.py", "from omniconv.analysis import cost", "a family imports omniconv.analysis"),
    ("src/omniconv/ops/conv/layer.py", "from ...convert import walk", "a family imports omniconv.convert"),
    ("src/omniconv/ops/conv/layer.py", "from omniconv.ops.lightweight.layer import _heads", "private to another"),
    ("src/omniconv/ops/conv/layer.py", "from ..lightweight.gpu import launch", "private to another"),
    ("src/omniconv/analysis/cost.py", "from omniconv.ops.conv.cost import macs", "imports one family"),
    ("src/omniconv/analysis/cost.py", "from ..ops import conv", "imports one family: omniconv.ops.conv"),
    ("src/omniconv/cli.py", "def f():\n    import omniconv.ops.conv", "imports one family"),
    ("src/omniconv/cli.py", "import_module('omniconv.ops.conv.layer')", "imports one family"),
    ("src/omniconv/figures/draw.py", "if family.name == 'lightweight': ...", "names one family: 'lightweight'"),
    ("src/omniconv/new/file.py", "TABLE = {'spatial-separable': 1}", "names one family"),
    ("tests/contract/test_cost.py", "from omniconv.ops.conv import layer", "imports one family"),
    ("benchmarks/run.py", "import omniconv.ops.conv", "imports one family"),
]
GOOD = [
    ("src/omniconv/core/layer.py", "import torch\nfrom .problem import ConvProblem"),
    ("src/omniconv/core/family.py", "def f():\n    import torch"),
    ("src/omniconv/core/family.py", "def f():\n    from omniconv.ops import NAMES"),
    ("src/omniconv/core/family.py", "if TYPE_CHECKING:\n    import torch"),
    ("src/omniconv/ops/conv/layer.py", "from ...core.layer import ConvLayer\nfrom .reference import _taps"),
    ("src/omniconv/ops/conv/layer.py", "from omniconv.ops.lightweight.layer import lightweight_conv1d"),
    ("src/omniconv/ops/__init__.py", "FAMILIES = ('conv', 'lightweight')"),
    ("src/omniconv/nn.py", "from omniconv.ops.conv.layer import Conv2d"),
    ("src/omniconv/analysis/cost.py", '"""lightweight"""\nfrom omniconv.ops import FAMILIES'),
    ("tests/families/test_conv.py", "from omniconv.ops.conv import layer"),
]
KNOWN = ["conv", "lightweight", "spatial_separable"]


@pytest.mark.parametrize(("where", "source", "complaint"), BAD)
def test_refuses(where, source, complaint):
    assert complaint in "; ".join(complaints(where, source, KNOWN))


@pytest.mark.parametrize(("where", "source"), GOOD)
def test_accepts(where, source):
    assert list(complaints(where, source, KNOWN)) == []


def test_counting_needs_no_torch():
    """The files that count are imported in a fresh interpreter, and torch must not have come along."""
    relative = [path.relative_to(PACKAGE.parent) for path in tracked(".py") if _counts(path)]
    names = sorted({".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in relative})
    program = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "omniconv.core.problem" in names
    assert {"omniconv", "omniconv.cli.compare", "omniconv.report.grid"} <= set(names)


def _counts(path):
    parts = path.relative_to(ROOT).parts
    if parts[:3] == ("src", "omniconv", "core"):
        return parts[3] in TORCH_FREE_CORE
    in_family = parts[:3] == ("src", "omniconv", "ops") and len(parts) == 5 and parts[4] in TORCH_FREE_FILES
    on_the_surface = parts[:3] in {("src", "omniconv", "cli"), ("src", "omniconv", "report")}
    return in_family or on_the_surface or parts == ("src", "omniconv", "__init__.py")
