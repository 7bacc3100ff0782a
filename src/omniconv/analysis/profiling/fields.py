# SPDX-License-Identifier: Apache-2.0
"""The receptive field of a model's first output and of each of its layers, for a profile: where it can be followed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor, nn

from omniconv.analysis.field.receptive_field import ReceptiveField, receptive_field
from omniconv.analysis.journal import tensors_in

Fields = dict[tuple[str, int], ReceptiveField]


def fields_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[ReceptiveField | None, Fields, list[str]]:
    """The field of the first output, the fields by module and call, and why they are missing where they are."""
    if not any(t.dim() > 2 for t in tensors_in((*args, *kwargs.values()))):
        return None, {}, []
    try:
        found = receptive_field(_FirstOutput(model), args or kwargs, layers="all")
    except Exception as error:  # noqa: BLE001 - a profile without receptive fields says so, and is still a profile
        reason = " ".join(str(error).split())
        return None, {}, [f"no receptive field: {reason or type(error).__name__}"]
    turns: Counter[str] = Counter()
    fields: Fields = {}
    for qualified, field in found.layers:
        name = qualified.removeprefix("model").removeprefix(".")
        turns[name] += 1
        fields[name, turns[name]] = field
    return found, fields, []


class _FirstOutput(nn.Module):
    """A model whose only output is the first tensor that ``model`` returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return next(tensors_in((self.model(*args, **kwargs),)))
