# SPDX-License-Identifier: Apache-2.0
"""One run of a model to learn what its output depends on: on tensors without data where the model allows that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from omniconv.analysis.arguments import arguments_of
from omniconv.analysis.field.layout import Field
from omniconv.analysis.field.merge import MisalignedError
from omniconv.analysis.field.trace import FieldTrace
from omniconv.analysis.journal import put_back
from omniconv.analysis.model_output import Path, output_of

Layers = list[tuple[str, Field]]


@dataclass(frozen=True)
class Run:
    """A model, what it is called with, and which dims of which argument are followed."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int
    followed: tuple[int, ...]

    @classmethod
    def of(cls, model: nn.Module, input: Any, axes: Sequence[int] | None, wrt: int) -> Run:
        """Check the arguments of ``receptive_field`` and keep them."""
        args, kwargs = arguments_of(input, model)
        values = (*args, *kwargs.values())
        places = [n for n, value in enumerate(values) if isinstance(value, Tensor)]
        if type(wrt) is not int or not 0 <= wrt < len(places):
            raise ValueError(f"`wrt` (={wrt!r}) must be the place of one of {len(places)} input tensors; use 0.")
        return cls(model, args, kwargs, places[wrt], _spatial_dims(values[places[wrt]], axes))

    @property
    def input(self) -> Tensor:
        """The argument that is followed."""
        found: Tensor = [*self.args, *self.kwargs.values()][self.place]
        return found

    def called(self, change: Callable[[int, Any], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, each put through ``change`` with its place."""
        values = [change(n, value) for n, value in enumerate((*self.args, *self.kwargs.values()))]
        count = len(self.args)
        return tuple(values[:count]), dict(zip(self.kwargs, values[count:], strict=True))

    def field(self, output: Path | None, *, layers: bool | str = False) -> tuple[Field, Layers]:
        """The field of the chosen output, and of the output of each module without children, or of ``"all"``."""
        try:
            return self._traced(output, layers, fake=True)
        except MisalignedError:
            raise
        except Exception:  # noqa: BLE001 - a model may read values; only a run on data tells that from a mistake
            return self._traced(output, layers, fake=False)

    def result(self, args: Sequence[Any], kwargs: dict[str, Any], mode: FakeTensorMode | None = None) -> Any:
        """What the model returns, computed with its tensors in ``mode``, and with copies of those without a size."""
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        own: dict[str, Tensor] = {name: _unfilled(t) for name, t in named if is_lazy(t)}
        if mode is not None:
            own.update((name, mode.from_tensor(t)) for name, t in named if name not in own)
        return functional_call(self.model, own, tuple(args), kwargs) if own else self.model(*args, **kwargs)

    def _traced(self, output: Path | None, layers: bool | str, *, fake: bool) -> tuple[Field, Layers]:
        found: Layers = []
        with (
            evaluating(self.model, (self.args, self.kwargs)) as before_write,
            torch.inference_mode(False),
            torch.no_grad(),
            _without_data(fake) as mode,
        ):
            args, kwargs = self.called(lambda _, v: mode.from_tensor(v) if mode and isinstance(v, Tensor) else v)
            trace = FieldTrace(len(self.followed), before_write)
            trace.start((*args, *kwargs.values())[self.place], self.followed)
            with _named(self.model, trace, found if layers else None, every=layers == "all"), trace.running():
                result = self.result(args, kwargs, mode)
            return trace.field(output_of(result, output)), found


@contextmanager
def evaluating(model: nn.Module, inputs: Any) -> Iterator[Callable[[Any], None]]:
    """Run ``model`` in evaluation mode inside the block and put everything back; yields what to tell of writes."""
    with put_back(model, inputs) as journal:
        for module in model.modules():
            module.training = False
        yield journal.before


def _unfilled(tensor: Any) -> Tensor:
    made: Tensor = type(tensor)(requires_grad=tensor.requires_grad, device=tensor.device, dtype=tensor.dtype)
    return made


def _spatial_dims(input: Tensor, axes: Sequence[int] | None) -> tuple[int, ...]:
    ndim = input.dim()
    if 0 in input.shape:
        raise ValueError(f"`input` shape (={tuple(input.shape)}) must have sizes of 1 or more.")
    if axes is None and ndim < 3:
        raise ValueError(
            f"`input` shape (={tuple(input.shape)}) must be (n, c, *spatial), 3 sizes or more; name the dims to follow "
            "with `axes` where they lie elsewhere."
        )
    found = tuple(range(2, ndim)) if axes is None else tuple(axes)
    legal = found and all(type(d) is int and -ndim <= d < ndim for d in found)
    if not legal or len({d % ndim for d in found}) < len(found):
        raise ValueError(f"`axes` (={axes!r}) must name different dims of an input with {ndim}; use 0 to {ndim - 1}.")
    return tuple(d % ndim for d in found)


@contextmanager
def _without_data(fake: bool) -> Iterator[FakeTensorMode | None]:
    if not fake:
        yield None
        return
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


@contextmanager
def _named(model: nn.Module, trace: FieldTrace, found: Layers | None, *, every: bool) -> Iterator[None]:
    """Tell the trace which module is running, and keep the field after each module without children, or every one."""
    handles = []

    def entered(name: str) -> Callable[..., None]:
        return lambda *_: trace.where.append(name)

    def left(name: str, leaf: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            trace.where.pop()
            first = result[0] if isinstance(result, (tuple, list)) and result else result
            if leaf and found is not None and isinstance(first, Tensor):
                found.append((name, trace.field(first)))

        return hook

    try:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                continue
            name = name.replace("_orig_mod.", "")  # noqa: PLW2901 - torch.compile's own level
            leaf = every or all(child == "parametrizations" for child, _ in module.named_children())
            handles.append(module.register_forward_pre_hook(entered(name)))
            handles.append(module.register_forward_hook(left(name, leaf)))
        yield
    finally:
        for handle in handles:
            handle.remove()
