# SPDX-License-Identifier: Apache-2.0
"""What a model is called with: tensors as given, and tensors made up where only a shape was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def arguments_of(input: Any, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments for ``model`` from ``input``.

    Args:
        input: a tensor; a shape, as a tuple of integers; a tuple of tensors, shapes and other values, passed by
            position; or a dict of them, passed by name. A shape becomes the same normal numbers every time, of the
            dtype and on the device of the model's first floating-point parameter.
        model: what will be called.

    Raises:
        TypeError: ``model`` is not a module, or ``input`` none of the above.
        ValueError: a shape with a negative size, or nothing at all.
    """
    if not isinstance(model, nn.Module):
        name = model.__name__ if isinstance(model, type) else type(model).__name__
        raise TypeError(f"`model` (={name}) must be an nn.Module; give an instance, or wrap a function in a module.")
    if isinstance(input, Tensor) or _is_shape(input):
        return (_made(input, model),), {}
    if isinstance(input, Mapping):
        wrong = next((key for key in input if not isinstance(key, str)), None)
        if wrong is not None:
            raise TypeError(f"`input` key (={wrong!r}) must be the name of an argument of the model's `forward`.")
        return (), {key: _made(value, model) for key, value in input.items()}
    if isinstance(input, tuple | list):
        if not input:
            raise ValueError("`input` (=()) must hold a tensor or a shape; use (1, 3, 224, 224).")
        return tuple(_made(value, model) for value in input), {}
    raise TypeError(
        f"`input` (={_brief(input)}) must be a tensor, a shape, or a tuple or dict of these; use (1, 3, 224, 224)."
    )


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The first tensor among the arguments."""
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and bool(value) and all(type(n) is int for n in value)


def _made(value: Any, model: nn.Module) -> Any:
    if not _is_shape(value):
        return value
    shape = tuple(value)
    if min(shape) < 0:
        raise ValueError(f"`input` shape (={shape}) must have sizes of 0 or more; use {tuple(map(abs, shape))}.")
    floating = (p for p in model.parameters() if p.dtype.is_floating_point)
    like = next(floating, torch.empty((), device=next((p.device for p in model.parameters()), None)))
    if like.device.type == "meta":
        return torch.empty(shape, dtype=like.dtype, device="meta")
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(like.device, like.dtype)


def _brief(value: Any) -> str:
    return repr(value) if isinstance(value, int | float | str | type(None)) else type(value).__name__
