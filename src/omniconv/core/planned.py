# SPDX-License-Identifier: Apache-2.0
"""Plans of functions, which meet the same arguments again and again: built once, then remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .problem import ConvProblem
from .register import Plan


def planned(build: Callable[..., ConvProblem]) -> Callable[..., Plan]:
    """Turn a function that builds problems into one that returns plans, remembered by the arguments and their types."""
    plans: dict[Any, Plan] = {}

    def find(*arguments: Any) -> Plan:
        if torch.compiler.is_compiling():
            return Plan(build(*arguments))
        key = (arguments, _kinds(arguments))
        try:
            return plans[key]
        except (KeyError, TypeError):
            plan = Plan(build(*arguments))
        if len(plans) >= 4096:
            plans.clear()
        try:
            plans[key] = plan
        except TypeError:  # lists and traced sizes have no hash: built anew at each call
            return plan
        return plan

    return find


def _kinds(value: Any) -> Any:
    return tuple([_kinds(v) for v in value]) if isinstance(value, tuple) else type(value)
