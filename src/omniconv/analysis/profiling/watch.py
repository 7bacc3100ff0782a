# SPDX-License-Identifier: Apache-2.0
"""One pass through a model under watch: every operator and family call, and the module call that ran it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey, _dispatch_has_kernel_for_dispatch_key
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type

from omniconv.analysis.journal import Journal, put_back, storage_of, tensors_in
from omniconv.analysis.profiling.aten_call import AtenCall, Work, arguments_by_name, bytes_of, schema_of, written
from omniconv.analysis.profiling.elementwise import other_ops_of
from omniconv.analysis.profiling.products import product_of
from omniconv.analysis.profiling.replay import Recipe
from omniconv.core.family import families, family_of
from omniconv.core.observe import Run, listening
from omniconv.core.problem import ConvProblem


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module: its qualified name, its class, and the how-manieth call of it this is."""

    name: str
    kind: str
    turn: int


@dataclass(frozen=True)
class Seen:
    """One operator or family call.

    Attributes:
        module: the innermost module call that ran it.
        operator: its name, ``aten::convolution`` or ``omniconv::<family>``.
        work: what it computes; None where no rule knows it.
        parameters: numbers of the parameters that it read, by their place in ``model.parameters()``.
        new_bytes: bytes of the tensors that it made.
        recipe: how to run it again, for what multiplies.
    """

    module: ModuleCall
    operator: str
    work: Work | None
    parameters: frozenset[int]
    new_bytes: int
    recipe: Recipe | None = None


def watched(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Seen]:
    """Run ``model`` once and return what it ran, in order; everything is as before afterwards."""
    with put_back(model, (args, kwargs)) as journal:
        watch = Watch(model, journal)
        with watch.running(model):
            model(*args, **kwargs)
    return watch.seen


class Watch(TorchDispatchMode):
    """Sees what reaches the kernels: composite operators have been taken apart, views and copies are visible."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what it would skip runs eagerly anyway, and asking for it imports Dynamo (1.5 s)

    def __init__(self, model: nn.Module, journal: Journal) -> None:
        super().__init__()
        self.seen: list[Seen] = []
        self._journal = journal
        self._stack = [ModuleCall("", type(model).__name__, 0)]
        self._parameters = _Parameters(model)
        self._silent = False

    @contextmanager
    def running(self, model: nn.Module) -> Iterator[None]:
        """Watch inside the block; no hook stays behind."""
        turns: Counter[str] = Counter()
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if not isinstance(module, torch.jit.ScriptModule):  # whose calls are those of the module around it
                    stack.enter_context(self._following(name, module, turns))
            stack.enter_context(listening(self._family_call))
            stack.enter_context(self)
            yield

    @contextmanager
    def _following(self, name: str, module: nn.Module, turns: Counter[str]) -> Iterator[None]:
        def enter(*_: Any) -> None:
            turns[name] += 1
            self._stack.append(ModuleCall(name, type(module).__name__, turns[name]))

        def leave(*_: Any) -> None:
            while len(self._stack) > 1 and self._stack.pop().name != name:
                pass

        entered = module.register_forward_pre_hook(enter, prepend=True)
        left = module.register_forward_hook(leave, always_call=True)
        try:
            yield
        finally:
            entered.remove()
            left.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # the wrapper takes it apart, and what it runs on plain tensors comes back here
        if not isinstance(func, OpOverload):
            return self._higher_order(func, args, kwargs)
        arguments = arguments_by_name(func, args, kwargs)
        writes = written(func, arguments)
        self._journal.before(writes)
        if self._silent or not (writes or _makes_tensors(func)):
            return func(*args, **kwargs)
        if _is_composite(func):
            with self:
                return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)  # noqa: SLF001
        result = func(*args, **kwargs)
        self._see(AtenCall(func, arguments, result), args, kwargs)
        return result

    def _higher_order(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is torch.ops.higher_order.cond:
            chosen, other, taken, operands = args
            with self:
                return (other if chosen else taken)(*operands)
        self.seen.append(Seen(self._stack[-1], f"higher_order::{func.name()}", None, frozenset(), 0))
        return func(*args, **kwargs)

    def _see(self, call: AtenCall, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        used = self._parameters.among(call.inputs)
        if call.func.is_view or self._parameters.passed_on(call, used):
            used = frozenset()
        matrices = self._parameters.among(t for t in call.inputs if t.dim() > 1)
        work = work_of(call, weighted=bool(matrices))
        recipe = Recipe.of(call.func, args, kwargs) if work is not None and work.macs else None
        self.seen.append(Seen(self._stack[-1], call.name, work, used, call.new_bytes, recipe))

    def _family_call(self, problem: ConvProblem, tensors: Sequence[Tensor | None], run: Run) -> Any:
        """A family call is one problem, and what computes it is not seen; except under vmap, which hides the batch."""
        if any(is_functorch_wrapped_tensor(t) for t in tensors if t is not None):
            return run()
        before, self._silent = self._silent, True
        try:
            output = run()
        finally:
            self._silent = before
        if not self._silent:
            given = [t for t in tensors if t is not None]
            work = work_of_problem(problem, given[0].element_size())
            used = self._parameters.among(given)
            recipe = Recipe.of(problem, tensors, {})
            operator = f"omniconv::{problem.family}"
            self.seen.append(Seen(self._stack[-1], operator, work, used, bytes_of(output), recipe))
        return output


@cache
def _is_composite(func: OpOverload) -> bool:
    """Whether an operator is made of others: outside of inference_mode, torch takes those apart itself."""
    return bool(_dispatch_has_kernel_for_dispatch_key(func.name(), DispatchKey.CompositeImplicitAutograd))


@cache
def _makes_tensors(func: OpOverload) -> bool:
    """Whether an operator returns tensors; questions about one, such as its device, do not."""
    return any("Tensor" in str(r.type) for r in schema_of(func).returns)


def work_of(call: AtenCall, *, weighted: bool) -> Work | None:
    """What an operator computes: as some family's problem, as a product, or beside those; None if nobody knows."""
    for family in families().values():
        read = family.outside.get(call.name)
        problem = read(call.shapes()) if read else None
        if problem is not None:
            return work_of_problem(problem, call.inputs[0].element_size())
    found = product_of(call, weighted=weighted)
    if found is not None:
        return found
    ops = other_ops_of(call)
    if ops is None:
        return None
    return Work(other_ops=ops, bytes=call.bytes if ops else 0)


def work_of_problem(problem: ConvProblem, itemsize: int) -> Work:
    """The cost of a convolution."""
    family = family_of(problem)
    cost = family.cost(problem)
    return Work(
        family.setting_of(problem).name,
        cost.macs,
        cost.bias_adds,
        cost.sampling,
        cost.exponentials,
        0,
        cost.bytes(itemsize),
        problem,
        (problem.in_channels, problem.out_channels),
        (problem.in_size or (), problem.out_size),
        problem.batch,
    )


@dataclass
class _Parameters:
    """Which parameters stand in a tensor: by the memory it shares with them, or with a copy made on the way."""

    model: nn.Module
    places: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, parameter in enumerate(self.model.parameters()):
            self._stand(parameter, (number,))

    def _stand(self, tensor: Tensor, numbers: Sequence[int]) -> None:
        key, storage = storage_of(tensor)
        if storage is not None:
            self.kept.append(storage)  # else its address might be given to another
            self.places.setdefault(key, []).extend((*_extent(tensor), number) for number in numbers)

    def among(self, tensors: Any) -> frozenset[int]:
        """Numbers of the parameters in ``tensors``."""
        found = set()
        for tensor in tensors_in(tensors):
            places = self.places.get(storage_of(tensor)[0])
            if places:
                first, last = _extent(tensor)
                found |= {number for low, high, number in places if low <= last and first <= high}
        return frozenset(found)

    def passed_on(self, call: AtenCall, used: frozenset[int]) -> bool:
        """Whether the call copies a parameter, as autocast does; the copy is remembered as that parameter."""
        copied = bool(used) and call.name in {"aten::_to_copy", "aten::clone"}
        if copied:
            self._stand(call.outputs[0], tuple(used))
        return copied


def _extent(tensor: Tensor) -> tuple[int, int]:
    """The first and the last element of a tensor within its memory."""
    first = int(tensor.storage_offset())
    reach = sum(int((n - 1) * s) for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return first, first + max(reach, 0)
