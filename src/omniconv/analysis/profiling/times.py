# SPDX-License-Identifier: Apache-2.0
"""Times of a profile: every product run again by itself, interleaved with the whole model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from omniconv.analysis.arguments import first_tensor
from omniconv.analysis.journal import put_back
from omniconv.analysis.profiling.result import Row
from omniconv.analysis.timing import Timing, interleaved, synchronizer

WHOLE = "the whole model"


def timed(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Sequence[Row], seconds: float
) -> tuple[list[Row], Timing]:
    """The rows with the time of their products, and the time of the model.

    Equal products are timed once. They run without gradients, on numbers of the same shape, type and layout.

    Raises:
        ValueError: tensors without data.
    """
    first = first_tensor(args, kwargs)
    device = torch.device("cpu") if first is None else first.device
    if device.type == "meta" or any(p.device.type == "meta" for p in model.parameters()):
        raise ValueError("`time` (=True) needs data, and the model or its input is on the meta device; use time=False.")
    recipes = {repr(row.recipe): row.recipe for row in rows if row.recipe is not None}
    with torch.no_grad(), put_back(model, (args, kwargs)) as journal:
        journal.before((*model.parameters(), *model.buffers(), args, kwargs))
        calls: dict[str, Callable[[], object]] = {name: recipe.call() for name, recipe in recipes.items()}
        calls[WHOLE] = lambda: model(*args, **kwargs)
        timings = interleaved(calls, seconds=seconds, synchronize=synchronizer(str(device)))
    return [replace(row, time=timings.get(repr(row.recipe))) for row in rows], timings[WHOLE]
