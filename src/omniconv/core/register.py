# SPDX-License-Identifier: Apache-2.0
"""From record to running code, once for all families: operators, and the call of the chosen kernel.

Every kernel of every family is an operator ``omniconv::<family>.<kernel>`` with the record's schema. A kernel made of
ATen calls is registered as a composite, so that gradients of every order, fakes, autocast and vmap are those of its
parts. Eager code calls the same function without the dispatcher, which would only decompose it (6 µs a call). What a
kernel of the compiled library needs instead is in ``native.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, is_autocast_enabled, is_grad_enabled, strided
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from .check import TensorCheck, differs, known
from .choose import choose
from .family import Family, Kernel, families, family_of
from .library import load
from .native import FLOATING, OVERRIDEABLE, PLAIN, TYPES, Native, Way, plain, tracing, transforming
from .observe import current_listener, listening
from .problem import ConvProblem

Function = Callable[..., Tensor]


_LIBRARY = torch.library.Library("omniconv", "DEF")
_KERNELS: dict[tuple[str, str], tuple[Function, Any, Any]] = {}
_NATIVE: dict[tuple[str, str], Native] = {}


def register(family: Family) -> None:
    """Define the operators of ``family`` and remember each kernel's function and operator."""
    for kernel in reversed(family.kernels):
        if kernel.compiled:
            universal, *_ = _KERNELS[family.name, family.kernels[-1].name]
            _NATIVE[family.name, kernel.name] = Native(family, kernel, universal, _LIBRARY)
            continue
        part = family.part(kernel.module)
        function, bind = getattr(part, kernel.name), getattr(part, kernel.bind) if kernel.bind else None
        _LIBRARY.define(f"{family.name}.{kernel.name}{family.schema}")
        _LIBRARY.impl(f"{family.name}.{kernel.name}", function, "CompositeImplicitAutograd")
        _KERNELS[family.name, kernel.name] = (function, operator(family.name, kernel.name), bind)


def operator(family: str, kernel: str) -> Any:
    """The operator ``torch.ops.omniconv.<family>.<kernel>``."""
    return getattr(getattr(torch.ops.omniconv, family), kernel)


class Plan:
    """A checked problem with the kernel that will run it; called with the family's tensors in schema order."""

    def __init__(self, problem: ConvProblem, kernel: Kernel | None = None) -> None:
        self.problem = problem
        self.family = family_of(problem)
        self.family.check(problem)
        self.choice = choose(problem)
        kernel = kernel or self.choice.kernel  # a test's, whatever the chooser says
        portable = self.choice.portable if kernel.compiled else kernel
        self._run, self._operator, bind = _KERNELS[problem.family, portable.name]
        self._native = _NATIVE.get((problem.family, kernel.name))
        self._leaves = tuple(getattr(torch, name) for name in kernel.leaves(problem)) if kernel.leaves else ()
        self._kept = TYPES.difference(self._leaves)
        self._check = TensorCheck(self.family, problem)
        self._numbers = self.family.numbers(problem, ()) if problem.fixed_pads else None
        self._flat = self._overrideable = None
        self._aten: Way | None = None
        self._raw: Way = (self._compiled, ())
        self._recorded: Way = self._raw
        if self._numbers is not None:
            if self._native is not None:
                self._flat = self._native.flat.pack(self._numbers)
                self._raw, self._recorded = self._native.bound(problem, self._numbers, self._flat, self._recorded)
                self._overrideable = kernel.overrideable(*self._numbers)
            if self._overrideable is not None:
                self._recorded = (OVERRIDEABLE, self._overrideable)
            if bind and self.family.batched == ("input",) and (bound := bind(problem, *self._numbers)):
                self._aten = (bound, ())  # which may broadcast: its tensors have fixed shapes
        self._quick = (self._native or self._aten) is not None
        if self._quick:  # sizes that follow the input's are looked at by the compiled kernel
            found = self.family.tensors(problem.at((2**40,) * problem.dim))
            self._dims, self._channels, self._count = problem.dim + 2, problem.in_channels, len(found)
            self._shapes = [known(size, problem.dim, name in self.family.batched) for name, size in found.items()][1:]

    def __reduce__(self) -> tuple[type[Plan], tuple[ConvProblem]]:
        return Plan, (self.problem,)

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        if self._quick and not is_dynamo_compiling() and (way := self._shortcut(tensors)):
            run, numbers = way
            try:
                return run(*tensors, *numbers)
            except (RuntimeError, TypeError):
                self._check(tensors)  # says what is wrong better than a kernel can
                raise
        input = tensors[0]
        names = self.family.tensor_names
        if len(tensors) != len(names):
            takes = f"{len(names)} tensors ({', '.join(names)}; None where one is absent)"
            raise TypeError(f"a {self.family.name} plan takes {takes}, not {len(tensors)}.")
        if not isinstance(input, Tensor):
            if isinstance(input, torch.fx.Proxy):  # symbolic tracing knows no shapes: it records the operator
                return self._operator(*tensors, *self._arguments(tensors))
            raise TypeError(f"`{names[0]}` (={type(input).__name__}) must be a torch.Tensor.")
        unbatched = input.dim() == self.problem.dim + 1
        if unbatched:
            tensors = tuple(
                t.unsqueeze(0) if isinstance(t, Tensor) and name in self.family.batched else t
                for name, t in zip(names, tensors, strict=True)
            )
        self._check(tensors)
        output = self._watched(tensors)
        return output.squeeze(0) if unbatched else output

    def native(self, input: Any) -> tuple[Native | None, tuple[int, ...] | None]:
        """The compiled kernel that takes such an input, and its numbers; None where another computes it."""
        takes = self._native is not None and isinstance(input, Tensor) and input.dim() == self.problem.dim + 2
        return (self._native, self._flat) if takes and Native.takes(input, self._leaves) else (None, None)

    def check(self, *tensors: Tensor | None) -> None:
        """Raise TypeError or ValueError, which say what is wrong, unless these tensors are the problem's."""
        self._check(tensors)

    def portable(self, *tensors: Tensor | None) -> Tensor:
        """The same through ATen, with gradients of every order, of tensors that were checked."""
        return self._run(*tensors, *self._arguments(tensors))

    def _shortcut(self, tensors: tuple[Tensor | None, ...]) -> Way | None:
        """What computes these tensors, and with which numbers, where only its own checks need to stand between them.

        After large tensors each line and each call of this is fetched from memory again, 15 µs a call: so it asks in
        one piece, for no more than it must.
        """
        input: Any = tensors[0]
        if current_listener() is not None or type(input) not in PLAIN or len(tensors) != self._count:
            return None
        sizes, dtype = input.shape, input.dtype
        if len(sizes) != self._dims or sizes[1] != self._channels or not input.is_cpu:
            return None
        for at, shape in enumerate(self._shapes, 1):  # half the time of a `zip`
            t = tensors[at]
            if t is None:
                if shape is not None:
                    return None
            elif type(t) not in PLAIN or (t.shape != shape and differs(t, shape)) or t.dtype != dtype or not t.is_cpu:
                return None
        native = self._native
        if native is not None:
            if is_autocast_enabled("cpu") or transforming() or tracing() or forward_ad._current_level >= 0:  # noqa: SLF001
                return None
            if (dtype in self._kept and input.layout is strided) or native.takes(input, self._leaves):
                if is_grad_enabled():
                    for tensor in tensors:
                        if tensor is not None and tensor.requires_grad:
                            return self._recorded
                return self._raw
        return self._aten if dtype in FLOATING else None

    def _compiled(self, *tensors: Tensor | None) -> Tensor:
        native: Any = self._native
        return native.eager(self._run, tensors, self._flat or self._packed(tensors), self._overrideable)

    def _watched(self, tensors: tuple[Tensor | None, ...]) -> Tensor:
        listener = None if torch.compiler.is_compiling() else current_listener()
        if listener is None:
            return self._compute(tensors)
        input: Any = tensors[0]

        def run() -> Tensor:
            with listening(None):
                return self._compute(tensors)

        return listener(self.problem.at(tuple(input.shape[2:]), input.shape[0]), tensors, run)

    def _compute(self, tensors: tuple[Tensor | None, ...]) -> Tensor:
        """Checked tensors through the compiled kernel where it takes them, else through ATen."""
        native, compiling = self._native, torch.compiler.is_compiling()
        if native is not None and not torch.compiler.is_exporting():  # exported programs run without this library
            narrow: tuple[Any, ...] = native.lowered(tensors)
            if native.takes(narrow[0], self._leaves):
                if plain(narrow):
                    return native.eager(self._run, narrow, self._packed(tensors), self._overrideable)
                if compiling and not transforming():
                    return native.operator(*narrow, self._packed(tensors))
        recorded = compiling and not torch.compiler.is_exporting()  # a program holds ATen's operators
        return (self._operator if recorded else self._run)(*tensors, *self._arguments(tensors))

    def _packed(self, tensors: tuple[Tensor | None, ...]) -> tuple[int, ...]:
        assert self._native is not None  # noqa: S101
        return self._native.flat.pack(self._arguments(tensors))

    def _arguments(self, tensors: tuple[Tensor | None, ...]) -> tuple[Any, ...]:
        if self._numbers is not None:
            return self._numbers
        input: Any = tensors[0]
        return self.family.numbers(self.problem, tuple(input.shape[2:]))


for _family in families().values():
    register(_family)
load()
