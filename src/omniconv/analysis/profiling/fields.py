# SPDX-License-Identifier: Apache-2.0
"""The receptive field of a model's first output and of each of its layers, for a profile: where it can be followed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from omniconv.analysis.field.receptive_field import ReceptiveField, receptive_field
from omniconv.analysis.journal import tensors_in

Fields = dict[tuple[str, int], ReceptiveField]


def fields_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[ReceptiveField | None, Fields, list[str]]:
    """The field of the first output in the first input, the fields by module and call, and what is to be said."""
    inputs = list(tensors_in((*args, *kwargs.values())))
    if not any(t.dim() > 2 for t in inputs):
        return None, {}, []
    outputs: list[int] = []
    try:
        found = receptive_field(_FirstOutput(model, outputs.append), args or kwargs, layers="all")
    except Exception as error:  # noqa: BLE001 - a profile without receptive fields says so, and is still a profile
        reason = " ".join(str(error).split())
        return None, {}, [f"no receptive field: {reason or type(error).__name__}"]
    turns: Counter[str] = Counter()
    fields: Fields = {}
    for qualified, field in found.layers:
        name = qualified.removeprefix("model").removeprefix(".")
        turns[name] += 1
        fields[name, turns[name]] = field
    said = [f"receptive fields are those in the first of {len(inputs)} inputs"] if len(inputs) > 1 else []
    if outputs[-1] > 1:
        said.append(f"the receptive field of the model is that of the first of {outputs[-1]} outputs")
    return found, fields, said


class _FirstOutput(nn.Module):
    """A model whose only output is the first tensor that ``model`` returns; tells how many there are."""

    def __init__(self, model: nn.Module, tell: Callable[[int], None]) -> None:
        super().__init__()
        self.model = model
        self.tell = tell

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        first, *others = tensors_in((self.model(*args, **kwargs),))
        self.tell(1 + len(others))
        return first
