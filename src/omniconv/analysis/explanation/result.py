# SPDX-License-Identifier: Apache-2.0
"""What ``explain`` found: formulas with and without numbers, the kernel, and the proof."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omniconv.core.choose import Choice
from omniconv.core.cost import Cost, Formula, Step
from omniconv.core.family import Family, Setting
from omniconv.core.problem import ConvProblem
from omniconv.core.taps import Count, field_of_path
from omniconv.report.grid import Line
from omniconv.report.result import Result


@dataclass(frozen=True)
class Walk:
    """The proof of one step: products counted in a loop, or None where no loop walks it."""

    step: Step
    count: Count | None

    @property
    def holds(self) -> bool:
        """Whether the loop counted what the formula says; True where there is no loop."""
        return self.count is None or self.count.all_taps == self.step.macs.value


@dataclass(frozen=True, repr=False)
class Explanation(Result):
    """One convolution at one position. Its repr is the explanation.

    Attributes:
        family, setting: the records.
        problem: the numbers.
        cost: the formulas.
        choice: the kernel, and what the others said.
        itemsize: bytes of an element.
        walks: the proof step by step, empty where none was asked for.
    """

    family: Family
    setting: Setting
    problem: ConvProblem
    cost: Cost
    choice: Choice
    itemsize: int = 4
    walks: tuple[Walk, ...] = ()

    @property
    def params(self) -> int:
        """Parameters, bias included."""
        return self.cost.params

    @property
    def macs(self) -> int:
        """Multiply-adds, bias and sampling apart."""
        return self.cost.macs

    @property
    def bytes(self) -> int:
        """Least bytes moved."""
        return self.cost.bytes(self.itemsize)

    @property
    def out_size(self) -> tuple[int, ...]:
        """Output positions per axis."""
        return self.problem.out_size

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Input positions per axis that reach one output."""
        return tuple(axis.size for axis in field_of_path(self.family.path(self.problem)))

    @property
    def proved(self) -> bool:
        """Whether every loop counted what its formula says."""
        return all(walk.holds for walk in self.walks)

    def lines(self, width: int | None = None, lang: str = "en") -> list[Line]:
        from omniconv.analysis.explanation.text import lines

        return lines(self, width, lang)

    def to_dict(self) -> dict[str, Any]:
        problem = self.problem
        return {
            "schema": 1,
            "family": self.setting.name,
            "problem": str(problem),
            "formula": self.family.formula,
            "equals": self.setting.equals,
            "source": self.family.source,
            "in_channels": problem.in_channels,
            "out_channels": problem.out_channels,
            "in_size": list(problem.in_size or ()),
            "out_size": list(self.out_size),
            "receptive_field": list(self.receptive_field),
            "unbounded": self.family.unbounded(problem),
            "params": self.params,
            "macs": self.macs,
            "bias_adds": self.cost.bias_adds,
            "sampling": self.cost.sampling,
            "exponentials": self.cost.exponentials,
            "flops": self.cost.flops,
            "bytes": self.bytes,
            "flop_per_byte": self.cost.intensity(self.itemsize),
            "notes": list(self.cost.notes),
            "kernel": self.choice.kernel.name,
            "refused": [{"kernel": name, "why": why} for name, why in self.choice.refused],
            "steps": [self._step(step) for step in self.cost.steps],
            "proof": self._proof() if self.walks else None,
        }

    def _step(self, step: Step) -> dict[str, Any]:
        def facts(formula: Formula) -> dict[str, Any]:
            return {"formula": formula.symbols, "numbers": formula.numbers, "value": formula.value}

        parts = {"params": step.params, "macs": step.macs, "inputs": step.inputs, "outputs": step.outputs}
        apart = {n: getattr(step, n) for n in ("bias", "bias_adds", "sampling", "exponentials")}
        letters = {k: v for formula in parts.values() for k, v in formula.letters.items()}
        return {"name": step.name, **{n: facts(f) for n, f in parts.items()}, **apart, "letters": letters}

    def _proof(self) -> dict[str, Any]:
        counted = [walk for walk in self.walks if walk.count is not None]
        return {
            "holds": self.proved,
            "counted": sum(walk.count.all_taps for walk in counted if walk.count),
            "on_data": sum(walk.count.on_data for walk in counted if walk.count),
            "formula": sum(walk.step.macs.value for walk in counted),
            "not_walked": sum(walk.step.macs.value for walk in self.walks if walk.count is None),
            "steps": [
                {
                    "name": walk.step.name,
                    "formula": walk.step.macs.value,
                    "counted": walk.count and walk.count.all_taps,
                    "on_data": walk.count and walk.count.on_data,
                }
                for walk in self.walks
            ],
        }

    def to_records(self) -> list[dict[str, Any]]:
        """One record: the facts that are single values."""
        facts = self.to_dict()
        proof = facts.pop("proof") or {}
        facts = {k: v for k, v in facts.items() if k not in ("schema", "steps", "refused", "notes")}
        return [facts | {f"proof_{k}": proof.get(k) for k in ("holds", "counted", "on_data", "not_walked")}]

    def to_plain(self) -> str:
        """What a person reads, one fact a line: its name, a tab, and what it is."""
        from omniconv.analysis.explanation.text import pairs

        named = [(name, text) for name, texts in pairs(self) for text in texts.split("\n") if text]
        return "\n".join(f"{name}\t{text}" for name, text in [("family", self.setting.name), *named])

    def to_markdown(self, lang: str = "en") -> str:
        """A list of the facts."""
        from omniconv.analysis.explanation.text import pairs

        named = [f"- **{name}**: {text.replace(chr(10), '<br>')}" for name, text in pairs(self, lang) if text]
        return "\n".join([f"### {self.setting.name}", "", self.setting.summary, "", *named])
