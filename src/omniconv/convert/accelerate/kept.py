# SPDX-License-Identifier: Apache-2.0
"""What stands in the modules of a model before a forward runs, so that it can be compared and put back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

SIMPLE = (bool, int, float, complex, str, bytes, type(None))
DEPTH = 3  # of containers in containers that are looked into


class _Itself:
    """Stands for a value that is the same only where it is the very same."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    __hash__ = None  # type: ignore[assignment]


class Kept:
    """The attributes of each module: numbers and words by value, containers by what is in them, all else itself."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self._attributes = {name: dict(vars(module)) for name, module in self.modules.items()}
        self._marks = {name: _marks(module) for name, module in self.modules.items()}
        self._contents = [
            (container, list(container.items()) if isinstance(container, dict) else list(container))
            for attributes in self._attributes.values()
            for value in attributes.values()
            for container in _containers(value, DEPTH)
        ]

    def changed(self) -> tuple[str, str] | None:
        """The first module of which something is no longer the same, and the name of that."""
        for name, module in self.modules.items():
            before, now = self._marks[name], _marks(module)
            for key in sorted(before.keys() | now.keys()):
                if key not in before or key not in now or before[key] != now[key]:
                    return name, key
        return None

    def restore(self) -> None:
        """Put all back, in the very containers that held it."""
        for container, parts in self._contents:
            container.clear()
            if isinstance(container, list):
                container.extend(parts)
            else:
                container.update(parts)
        for name, module in self.modules.items():
            module.__dict__.clear()
            module.__dict__.update(self._attributes[name])


def tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that stand in other attributes."""
    for module in model.modules():
        for value in vars(module).values():
            yield from _tensors(value, DEPTH)


def _tensors(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, dict | list | tuple | set):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part, depth - 1)


def _marks(module: nn.Module) -> dict[str, Any]:
    """What of a module must stay; a trace keeps tensors that it meets under names of its own."""
    return {key: _mark(value, DEPTH) for key, value in vars(module).items() if not key.startswith("_tensor_constant")}


def _mark(value: Any, depth: int) -> Any:
    if type(value) in SIMPLE:
        return type(value), value
    if depth and isinstance(value, dict):
        return type(value), [(_mark(key, 1), _mark(part, depth - 1)) for key, part in value.items()]
    if depth and isinstance(value, list | tuple | set):
        return type(value), [_mark(part, depth - 1) for part in value]
    return _Itself(value)


def _containers(value: Any, depth: int) -> Iterator[Any]:
    if not depth or not isinstance(value, dict | list | tuple | set):
        return
    for part in value.values() if isinstance(value, dict) else value:
        yield from _containers(part, depth - 1)
    if not isinstance(value, tuple):
        yield value
