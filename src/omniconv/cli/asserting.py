# SPDX-License-Identifier: Apache-2.0
"""Conditions such as ``macs<=600M``, which a profile must meet."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from omniconv.analysis.profiling.result import Profile

QUANTITIES = ("params", "macs", "bytes", "flops", "other_ops", "activation_bytes", "time_ms")
_RELATIONS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt, "==": operator.eq}
_POWERS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_TEXT = re.compile(r"^\s*([a-z_]+)\s*(<=|>=|==|<|>)\s*([0-9]+(?:\.[0-9]+)?)\s*([kMGT]?)\s*$")

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType


@dataclass(frozen=True)
class Condition:
    """``quantity relation limit``, and how it was written."""

    text: str
    quantity: str
    relation: str
    limit: float

    def complaint(self, profile: Profile) -> str:
        """Why the profile does not meet it, or ""."""
        if self.quantity == "flops":
            value: float = sum(row.flops for row in profile.rows)
        elif self.quantity == "time_ms":
            if profile.time is None:
                return f"{self.text}: no time was measured; add --time"
            value = 1e3 * profile.time.median
        else:
            value = getattr(profile, self.quantity)
        found = f"{round(value, 3):,}"
        if not _RELATIONS[self.relation](value, self.limit):
            return f"{self.text} does not hold: {self.quantity} = {found}"
        counted = self.quantity not in ("params", "activation_bytes", "time_ms")
        if counted and profile.status == "partial" and not self.relation.startswith(">"):
            return f"{self.text} is not known: {self.quantity} is at least {found}, and something was not counted"
        return ""


class ConditionType(_Type):
    """A condition on the command line."""

    name = "condition"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Condition:
        if isinstance(value, Condition):
            return value
        match = _TEXT.match(value)
        if match is None or match[1] not in QUANTITIES:
            names = ", ".join(QUANTITIES)
            self.fail(f"{value!r} must be like macs<=600M; the quantities are {names}.", param, ctx)
        return Condition(value.strip(), match[1], match[2], float(match[3]) * _POWERS[match[4]])


CONDITION = ConditionType()
