# SPDX-License-Identifier: Apache-2.0
"""Follow a model's operators while it runs, and know at any time what each tensor depends on."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from omniconv.analysis.field import reads
from omniconv.analysis.field import rules_mixing as field_rules_mixing  # noqa: F401 - a module of rules registers them
from omniconv.analysis.field.interval import TooManyPhasesError
from omniconv.analysis.field.joins import WRAPPED
from omniconv.analysis.field.layout import Field
from omniconv.analysis.field.merge import MisalignedError, merged
from omniconv.analysis.field.rules import Call, Rule, has_rule, name_of, rule_of, schema_of, unknown
from omniconv.analysis.field.rules_shapes import written_back
from omniconv.analysis.field.rules_windows import channels_mixed, windowed
from omniconv.core.family import family_of
from omniconv.core.observe import Run, listening
from omniconv.core.problem import ConvProblem


@dataclass(frozen=True)
class View:
    """A tensor that shares memory with ``parent``: output ``index`` of ``call``."""

    parent: Tensor
    call: Call
    rule: Rule
    index: int


class FieldTrace(TorchDispatchMode):
    """Inside the block, every operator hands on the fields of its inputs; ask for one with :meth:`field`."""

    supports_higher_order_operators = True

    def __init__(self, axes: int, before_write: Callable[[Iterable[Any]], None]) -> None:
        super().__init__()
        self.axes = axes
        self.before_write = before_write
        self.where: list[str] = []
        self._fields = WeakTensorKeyDictionary()
        self._views = WeakTensorKeyDictionary()
        self._children = WeakTensorKeyDictionary()
        self._silent = False

    def start(self, tensor: Tensor, followed: Sequence[int]) -> None:
        """Begin at ``tensor``, whose dims ``followed`` are the spatial axes."""
        self._fields[tensor] = Field.of_input(tensor.shape, followed)

    def field(self, tensor: Tensor) -> Field:
        """What ``tensor`` depends on."""
        shape = () if is_lazy(tensor) else tuple(tensor.shape)
        found: Field | None = self._fields.get(tensor)
        if found is None:
            return Field.independent(shape, self.axes)
        if found.shape != shape:
            lost = found.reduced(range(len(found.dims)), "a change of shape in place")
            return merged((lost,), shape, "a change of shape in place")
        return found

    @property
    def place(self) -> str:
        """The module that is running."""
        return self.where[-1] if self.where else ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Trace operators and family calls inside the block."""
        with self, listening(self._family_call):
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._unseen(func, args, kwargs)
        if func.namespace == "prim":  # a question about a tensor, unknown to the dispatcher that is asked next
            return func(*args, **kwargs)
        if not self._silent and not has_rule(func) and func._can_decompose():  # noqa: SLF001 - the only way to ask
            with self:  # inference tensors arrive here before they are taken apart
                return func.decompose(*args, **kwargs)
        if schema_of(func).is_mutable:
            self.before_write(changed_by(func, args, kwargs))
        result = func(*args, **kwargs)
        if not self._silent:
            outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            self._follow(func, args, kwargs, outputs)
        return result

    def _unseen(self, func: HigherOrderOperator, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """An operator made of functions, such as ``flex_attention``: what it computes stays hidden."""
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        given = {str(n): leaf for n, leaf in enumerate(tree_leaves((args, kwargs))) if isinstance(leaf, Tensor)}
        if not self._silent and outputs:
            call = Call(str(func.name()), given, tuple(tuple(t.shape) for t in outputs), self.field, self.place)
            for output, field in zip(outputs, self._results(unknown, call), strict=True):
                self._fields[output] = field
        return result

    def _follow(self, func: Any, args: Any, kwargs: dict[str, Any], outputs: list[Tensor]) -> None:
        changed = changed_by(func, args, kwargs) if schema_of(func).is_mutable else []
        targets = outputs or changed
        if not targets:
            return
        schema = schema_of(func).arguments
        given = dict(zip((a.name for a in schema), args, strict=False)) | kwargs
        arguments = {a.name: given.get(a.name, a.default_value) for a in schema if not a.is_out}
        call = Call(name_of(func), arguments, tuple(tuple(t.shape) for t in targets), self.field, self.place)
        rule = rule_of(func)
        if any(self.field(t).depends for t in call.tensors()):
            fields = self._results(rule, call)
        else:
            fields = [Field.independent(shape, self.axes) for shape in call.shapes]
        in_place = {id(t) for t in changed} if torch.Tag.inplace_view not in func.tags else set()
        views = bool(func.is_view) and not changed
        for index, (target, field) in enumerate(zip(targets, fields, strict=True)):
            if id(target) in in_place:
                self._write(target, field)
                continue
            self._fields[target] = field
            self._views.pop(target, None)
            if views:
                parent = next(call.tensors())
                self._views[target] = View(parent, call, rule, index)
                self._children.setdefault(parent, []).append(weakref.ref(target))
        beside = {id(t) for t in targets}
        for tensor in (t for t in changed if id(t) not in beside):
            whole = [f.reduced(range(len(f.dims)), call.why) for f in fields]
            self._write(tensor, merged(whole, tensor.shape, call.why))

    def _results(self, rule: Rule, call: Call) -> list[Field]:
        try:
            result = rule(call)
        except TooManyPhasesError:
            result = unknown(call)
        except MisalignedError as error:
            raise MisalignedError(error.axis, error.strides, call.why) from None
        if not isinstance(result, Field):
            return list(result)
        other = result.reduced(range(len(result.dims)), call.why) if len(call.shapes) > 1 else result
        return [result if shape == result.shape else merged((other,), shape, call.why) for shape in call.shapes]

    def _write(self, tensor: Tensor, field: Field) -> None:
        """New values in ``tensor``, seen through every tensor that shares them."""
        self._fields[tensor] = field
        while (view := self._views.get(tensor)) is not None:
            whole = written_back(view.call, view.index, self.field(tensor))
            tensor = view.parent
            self._fields[tensor] = whole
        self._refresh(tensor)

    def _refresh(self, parent: Tensor) -> None:
        for child in (found for ref in self._children.get(parent, ()) if (found := ref()) is not None):
            view: View | None = self._views.get(child)
            if view is not None:
                self._fields[child] = self._results(view.rule, view.call)[view.index]
                self._refresh(child)

    def _family_call(self, problem: ConvProblem, tensors: Sequence[Tensor | None], run: Run) -> Any:
        """A call of one of the library's families: its taps, not the operators that compute it."""
        before, self._silent = self._silent, True
        try:
            output = run()
        finally:
            self._silent = before
        if not self._silent:
            self._fields[output] = self._family_field(problem, tensors, tuple(output.shape))
        return output

    def _family_field(self, problem: ConvProblem, tensors: Sequence[Tensor | None], shape: tuple[int, ...]) -> Field:
        family, why = family_of(problem), f"`{problem.family}`"
        field, *others = (self.field(t) for t in tensors if t is not None)
        sizes = problem.in_size or ()
        for step in family.path(problem):
            numbers = zip(step.kernel_size, step.stride, step.dilation, step.pads(sizes), strict=True)
            make = reads.transposed if step.transposed else reads.window
            windows = [make(kernel, stride, dilation, before) for kernel, stride, dilation, (before, _) in numbers]
            sizes = step.out_size_of(sizes)
            mixed = channels_mixed(field, step.out_channels, step.groups, why)
            field = windowed(mixed, windows, sizes, why)
        parts = [_at_positions(f, shape[2:], why) for f in others if f.depends]
        result = merged((field, *parts), shape, why)
        if problem.padding_mode == "circular" and any(map(any, problem.pads())):
            result = result.noted(WRAPPED)
        words = family.unbounded(problem)
        return result.marked(range(self.axes), unbounded=True).noted(f"{why}: {words}") if words else result


def changed_by(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that a call writes to."""
    schema = schema_of(func).arguments
    given = dict(zip((a.name for a in schema), args, strict=False)) | kwargs
    written = [given.get(a.name) for a in schema if a.alias_info and a.alias_info.is_write]
    return [t for t in tree_leaves(written) if isinstance(t, Tensor)]


def _at_positions(field: Field, sizes: tuple[int, ...], why: str) -> Field:
    """A tensor of offsets, masks or predicted kernels: its last dims are the output's positions, or it is for all."""
    lead = len(field.dims) - len(sizes)
    return field.reduced(range(lead if lead >= 0 and field.shape[lead:] == sizes else len(field.dims)), why)
