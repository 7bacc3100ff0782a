# SPDX-License-Identifier: Apache-2.0
"""Values of the command line: sizes such as ``56x48``, padding such as ``0:1x1:0`` or ``same``, lists of names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from omniconv.core.padding import RULES

Axes = int | tuple[int, ...]

# Generic since click 8.4, and not before.
if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType


class AxesType(_Type):
    """``3`` for all axes, or one number per axis: ``3x5``."""

    name = "n[xn…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Axes:
        if not isinstance(value, str):
            return value
        parts = re.split(r"[x×,]", value)
        if not all(re.fullmatch(r"-?\d+", part) for part in parts):
            self.fail(f"{value!r} must be a number, or one per axis joined by x; use 3 or 3x5.", param, ctx)
        numbers = tuple(int(part) for part in parts)
        return numbers[0] if len(numbers) == 1 else numbers


class PaddingType(_Type):
    """``1``, ``1x2``, ``0:1x1:0`` (before:after per axis), or a rule for all axes or for each."""

    name = "padding"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        entries = [self._entry(part.strip(), value, param, ctx) for part in re.split(r"[x×,]", value)]
        return entries[0] if len(entries) == 1 and not isinstance(entries[0], tuple) else tuple(entries)

    def _entry(self, part: str, whole: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        rule = part.lower().replace("-", "_")
        if rule in RULES:
            return rule
        if re.fullmatch(r"\d+:\d+", part):
            before, after = part.split(":")
            return int(before), int(after)
        if not re.fullmatch(r"-?\d+", part):
            rules = ", ".join(RULES)
            self.fail(
                f"{whole!r} must be a number, 1x2, 0:1x1:0 (before:after per axis), or one of {rules}.", param, ctx
            )
        return int(part)


class ShapeType(_Type):
    """The shape of a tensor: ``1,3,224,224``."""

    name = "n,n,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if not isinstance(value, str):
            return tuple(value)
        parts = [part.strip() for part in re.split(r"[x×,]", value.strip("()[] "))]
        if not all(re.fullmatch(r"\d+", part) for part in parts):
            self.fail(f"{value!r} must be the sizes of a tensor, as 1,3,224,224.", param, ctx)
        return tuple(map(int, parts))


AXES = AxesType()
SHAPE = ShapeType()
PADDING = PaddingType()


def spelled(value: Any) -> str:
    """A value as the command line takes it: ``3``, ``3x5``, ``0:1x1:0``."""
    if not isinstance(value, tuple):
        return str(value)
    return "x".join(":".join(map(str, entry)) if isinstance(entry, tuple) else str(entry) for entry in value)


def raised(value: Any) -> Any:
    """A number, or each of several, raised to 1 where it is less."""
    if isinstance(value, tuple):
        return tuple(map(raised, value))
    return max(value, 1) if isinstance(value, int) and not isinstance(value, bool) else value


def call_of(context: click.Context, values: dict[str, Any]) -> str:
    """The call of the context's command with ``values``, as one would type it; defaults are left out."""
    words = [context.command_path]
    flags = []
    for parameter in context.command.params:
        name = parameter.name or ""
        value = values.get(name)
        if isinstance(parameter, click.Argument):
            words.append(spelled(value))
        elif isinstance(value, bool) or not isinstance(parameter, click.Option):
            flags += [parameter.opts[0]] if value else []
        elif value not in (None, (), [], parameter.default):
            texts = [",".join(value)] if parameter.multiple else [spelled(value)]
            flags += [f"{parameter.opts[0]} {text}" for text in texts]
    return " ".join([*words, *flags])
