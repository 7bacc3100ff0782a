# SPDX-License-Identifier: Apache-2.0
"""How a user reaches a problem: by a module that holds its plan, or by a public function with arguments by name."""

from __future__ import annotations

from dataclasses import fields
from inspect import signature

import torch

from contract.problems import family_of


def functions_for(problem):
    """The functions of the problem's family that take all its tensors and end in its number of axes."""
    family = family_of(problem)
    given = {name for name, shape in family.tensors(problem).items() if shape is not None}
    for name in family.functions:
        function = getattr(family.part("layer"), name)
        if name.endswith(f"{problem.dim}d") and given <= set(signature(function).parameters):
            yield function


def numbers_for(function, problem):
    """The problem's numbers and special values that ``function`` takes, each under its own name; flags as booleans."""
    values = {f.name: getattr(problem, f.name) for f in fields(problem)} | dict(problem.special)
    tensors = family_of(problem).tensor_names
    defaults = {name: p.default for name, p in signature(function).parameters.items()}
    names = [name for name in defaults if name in values and name not in tensors]
    return {name: bool(values[name]) if isinstance(defaults[name], bool) else values[name] for name in names}


def call(function, problem, tensors):
    """``function`` of the problem's tensors and numbers."""
    named = zip(family_of(problem).tensor_names, tensors, strict=True)
    return function(**{name: t for name, t in named if t is not None}, **numbers_for(function, problem))


def inputs_of(layer, problem, tensors):
    """Those of the problem's tensors that the layer's ``forward`` asks for, in its order: the rest are parameters."""
    named = dict(zip(family_of(problem).tensor_names, tensors, strict=True))
    return [named[name] for name in signature(layer.forward).parameters if named.get(name) is not None]


class Holding(torch.nn.Module):
    """A module that holds a plan as every layer does, and calls it with all of its tensors."""

    def __init__(self, plan):
        super().__init__()
        self.plan = plan

    def forward(self, *tensors):
        return self.plan(*tensors)
