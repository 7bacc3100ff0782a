# SPDX-License-Identifier: Apache-2.0
"""``Family``: the record that ties one folder of ``ops/`` together. It imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any

from .benchmarks import Benchmarks
from .cost import Cost
from .problem import ConvProblem

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Position:
    """A place in a network that a layer could fill, as ``compare`` and ``explain`` ask for it.

    ``padding`` None keeps the size (divided by the stride); ``groups`` and ``heads`` are for settings that have them.
    """

    in_channels: int
    out_channels: int
    in_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 4
    heads: int = 8
    batch: int = 1
    padding: Any = None
    output_padding: Any = 0
    bias: bool = False

    @property
    def dim(self) -> int:
        return len(self.in_size)

    def keeping(self, dilation: tuple[int, ...]) -> Any:
        """The padding asked for, or the one that keeps the size: symmetric where the span is odd, else ``tf_same``."""
        if self.padding is not None:
            return self.padding
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel_size, dilation, strict=True)]
        return tuple((e // 2, e // 2) if e % 2 else "tf_same" for e in spans)


def anywhere(position: Position) -> tuple[Position, str] | None:
    """The ``nearest`` of a setting that fits every position as it is."""
    return None


@dataclass(frozen=True)
class Setting:
    """A family with particular numbers, under the name the field gives it.

    Attributes:
        name: as the command line and JSON spell it.
        korean: its Korean name.
        aliases: other names in use.
        summary: one sentence: what it is.
        build: the problem at a position; raises ``ValueError`` where the position breaks a rule.
        matches: whether a problem of the family bears this name.
        nearest: None where the position fits; else the nearest that does, and why it had to change.
        equals: what it equals exactly, and when.
    """

    name: str
    korean: str
    summary: str
    build: Callable[[Position], ConvProblem]
    matches: Callable[[ConvProblem], bool]
    nearest: Callable[[Position], tuple[Position, str] | None] = anywhere
    aliases: tuple[str, ...] = ()
    equals: str = ""


def takes_all(problem: ConvProblem) -> str | None:
    """The ``refuse`` of a kernel that takes every problem of its family."""
    return None


def no_convolution(*numbers: Any) -> tuple[Any, ...] | None:
    """The ``overrideable`` of a kernel whose gradients torch has no formula for."""
    return None


@dataclass(frozen=True)
class Kernel:
    """One way to compute a family: the function ``name`` in the folder's ``module``; ``cpu`` is the compiled library.

    ``refuse`` returns None, or one sentence saying why this kernel cannot take a problem. ``words`` are the texts that
    a compiled kernel knows, in the order of its numbers for them. ``overrideable`` returns what
    ``aten::convolution_overrideable`` takes behind its tensors to compute the same, or None. ``bind`` names a function
    of the module: from the problem and the schema's numbers it makes what eager code calls with the tensors alone, or
    None; a compiled kernel's is in ``packed`` and makes two, without and with gradients, given what records them else.
    ``leaves`` names the types in which a compiled kernel leaves channels last to ATen, and ``exact`` the tensors that
    autocast leaves in the type that they have.
    """

    name: str
    summary: str
    module: str = "aten"
    refuse: Callable[[ConvProblem], str | None] = takes_all
    words: tuple[str, ...] = ("zeros",)
    overrideable: Callable[..., tuple[Any, ...] | None] = no_convolution
    bind: str = ""
    leaves: Callable[[ConvProblem], tuple[str, ...]] | None = None
    exact: tuple[str, ...] = ()

    @property
    def compiled(self) -> bool:
        """Whether it is part of the compiled library: float32 and bfloat16 on a CPU."""
        return self.module == "cpu"


@dataclass(frozen=True, eq=False)
class Family:
    """One formula: its names, its schema, its kernels, what it costs, and where its files are.

    Attributes:
        name: the folder under ``ops/`` and the prefix of its problem strings.
        formula: the formula in the project's letters.
        source: the paper.
        schema: the arguments of its operator: tensors first, then numbers.
        tensors: shape of each tensor argument, in schema order, for a problem with a known size; None: absent.
        numbers: the other arguments of the schema, in order, from the problem and the padding resolved for an input.
        settings: its named settings; each problem of the family matches one.
        kernels: how it can be computed, fastest first; the last takes every problem.
        cost: its cost.
        cases: problem strings that tests, benchmarks and figures share, by name.
        path: the convolutions in sequence whose taps make its receptive field.
        unbounded: why its receptive field has no fixed size, or "".
        layers, functions: public names in ``layer.py``.
        batched: tensors that lose their first axis on an input without a batch.
        check: raises ``ValueError`` where the special numbers of a problem break the family's rules.
        real_only: whether the formula has no meaning for complex numbers.
        outside: operators of others that compute the same, ``aten::convolution``; each to a function from a call's
            arguments by name, shapes for tensors, to the problem it solves, or None where it solves another's.
        benchmarks: the problems that are timed, and what others compute them with.
        rewrites: whether ``rewrites.py`` says which layers compute several steps of a network at once.
        tensor_names: names of the tensor arguments, in schema order; read from the schema at once, because Dynamo
            cannot trace a property that is computed on first use.
    """

    name: str
    formula: str
    source: str
    schema: str
    tensors: Callable[[ConvProblem], Mapping[str, Shape | None]]
    numbers: Callable[[ConvProblem, tuple[int, ...]], tuple[Any, ...]]
    settings: tuple[Setting, ...]
    kernels: tuple[Kernel, ...]
    cost: Callable[[ConvProblem], Cost]
    cases: Mapping[str, str]
    layers: tuple[str, ...]
    functions: tuple[str, ...]
    batched: tuple[str, ...] = ("input",)
    path: Callable[[ConvProblem], tuple[ConvProblem, ...]] = field(default=lambda problem: (problem,))
    unbounded: Callable[[ConvProblem], str] = field(default=lambda problem: "")
    check: Callable[[ConvProblem], None] = field(default=lambda problem: None)
    real_only: bool = False
    outside: Mapping[str, Callable[[Mapping[str, Any]], ConvProblem | None]] = field(default_factory=dict)
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    rewrites: bool = False
    tensor_names: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        arguments = self.schema[1 : self.schema.index(")")].split(", ")
        names = tuple(a.split()[1] for a in arguments if a.startswith("Tensor"))
        object.__setattr__(self, "tensor_names", names)

    def part(self, name: str) -> ModuleType:
        """The module ``name`` of the family's folder (``layer``, ``reference``, ``aten``, …), imported on first use."""
        return import_module(f"omniconv.ops.{self.name}.{name}")

    def layer_of(self, problem: ConvProblem, device: Any = None, dtype: Any = None) -> Any:
        """A layer with random weights that computes ``problem``, heads included: ``from_problem`` of ``layer.py``."""
        return self.part("layer").from_problem(problem, device, dtype)

    def setting_of(self, problem: ConvProblem) -> Setting:
        """The setting whose name ``problem`` bears."""
        return next(setting for setting in self.settings if setting.matches(problem))


_FAMILIES: dict[str, Family] = {}


def families() -> Mapping[str, Family]:
    """Every registered family by name, in the order of the documentation."""
    if not _FAMILIES:
        for name in import_module("omniconv.ops").NAMES:
            _FAMILIES[name] = import_module(f"omniconv.ops.{name}").FAMILY
    return _FAMILIES


def family_of(problem: ConvProblem) -> Family:
    """The family of ``problem``."""
    if problem.family not in families():
        raise ValueError(f"`family` (={problem.family!r}) is not registered; use {', '.join(families())}.")
    return families()[problem.family]


def settings() -> Mapping[str, tuple[Family, Setting]]:
    """Every named setting with its family, in the order of the documentation."""
    return {setting.name: (family, setting) for family in families().values() for setting in family.settings}
