# SPDX-License-Identifier: Apache-2.0
"""A model named on the command line, ``package.module:callable`` or ``file.py:callable``. To load it is to run it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .leaving import Refused

if TYPE_CHECKING:
    from torch import nn


def load(reference: str) -> nn.Module:
    """The module that ``reference`` names, or that what it names returns, in evaluation mode.

    Raises:
        Refused: the reference has no callable, or there is no such file, module or name, or no module comes of it.
    """
    where, colon, name = reference.rpartition(":")
    if not (colon and where and name):
        raise Refused(f"`MODEL` (={reference!r}) must be package.module:callable or file.py:callable.")
    home = _file(Path(where)) if where.endswith(".py") else _module(where)
    from torch import nn

    model: Any = home
    for part in name.split("."):
        if not hasattr(model, part):
            close = get_close_matches(part, [n for n in vars(home) if not n.startswith("_")], n=1)
            raise Refused(
                f"`MODEL` (={reference!r}): {where} has no {part!r}" + (f"; use {close[0]!r}." if close else ".")
            )
        model = getattr(model, part)
    if not isinstance(model, nn.Module):
        if not callable(model):
            raise Refused(
                f"`MODEL` (={reference!r}) must be a torch.nn.Module or return one, not {type(model).__name__}."
            )
        model = model()
    if not isinstance(model, nn.Module):
        raise Refused(f"`MODEL` (={reference!r}) returned a {type(model).__name__}; it must return a torch.nn.Module.")
    return model.eval()


def _file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Refused(f"`MODEL` (={str(path)!r}) is not a file.")
    # As python does for a script: what lies beside the file can be imported by it.
    sys.path.insert(0, str(path.parent.resolve()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise Refused(f"`MODEL` (={str(path)!r}) is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look a class's module up by its name.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _module(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Another name is missing inside the module: that is its own failure, not a wrong argument.
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
        raise Refused(
            f"`MODEL` (={name!r}): there is no module {error.name!r}; a file is named file.py:callable."
        ) from error
