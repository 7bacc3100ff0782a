# SPDX-License-Identifier: Apache-2.0
"""Run a model and put everything back: values, gradients, attributes, hooks, flags and random states.

Attributes are put back from shallow copies. Values are copied only when something is about to write to them, which a
dispatch mode sees and tells the journal; a model that only reads costs no memory.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._autograd import _unsafe_set_version_counter
from torch.nn.parameter import is_lazy


def storage_of(tensor: Tensor) -> tuple[int, torch.UntypedStorage | None]:
    """The memory of a tensor and a number that tells it from others; (0, None) for a subclass that has none."""
    try:
        storage = tensor.untyped_storage()
    except (NotImplementedError, RuntimeError, ValueError):
        return 0, None
    return storage._cdata, storage  # noqa: SLF001 - the address, which stays while wrappers come and go


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among values, and inside lists, tuples and mappings of them."""
    return _tensors(values, ())


def _tensors(values: Iterable[Any], outer: tuple[int, ...]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | Mapping) and id(value) not in outer:  # a list may hold itself
            yield from _tensors(value.values() if isinstance(value, Mapping) else value, (*outer, id(value)))


class Journal:
    """Copies of protected memory, each made just before the first write to it."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        stored = dict(storage_of(t) for t in tensors)
        self._protected = {key: s for key, s in stored.items() if s is not None and s.device.type != "meta"}
        self._copies: dict[int, torch.UntypedStorage] = {}

    def before(self, writes: Iterable[Any]) -> None:
        """Keep what stands in the protected ones among the tensors that are about to be written."""
        for tensor in tensors_in(writes):
            key, _ = storage_of(tensor)
            if key in self._protected and key not in self._copies:
                self._copies[key] = self._protected[key].clone()

    def restore(self) -> None:
        """Write the copies back, beneath autograd."""
        for key, copy in self._copies.items():
            self._protected[key].copy_(copy)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return storage_of(tensor)[0], tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


@contextmanager
def put_back(model: nn.Module, inputs: Any) -> Iterator[Journal]:
    """Put the model, its inputs and the random states back at the end of the block, also after an exception.

    Yields the journal, which must be told of every write. Out of reach is what a model keeps deeper than one level
    inside lists and dictionaries of its own.
    """
    modules = list(model.modules())
    held = [t for m in modules for t in tensors_in(vars(m).values())]
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers(), *held, *tensors_in([inputs]))}
    known = [t for t in tensors.values() if not is_lazy(t)]
    journal = Journal(known)
    with ExitStack() as stack:
        stack.enter_context(_random_states({t.device for t in known}))
        if "torch._dynamo" in sys.modules:  # what was compiled runs as it was written, where every call can be seen
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for tensor in known:
            stack.callback(_same_tensor(tensor))
        stack.callback(journal.restore)
        for module in modules:
            stack.callback(_same_attributes(module))
        for parameter in model.parameters():
            parameter.grad = None
        yield journal


def _same_tensor(tensor: Tensor) -> Callable[[], None]:
    """A function that gives a tensor its memory, flag, gradient and version back."""
    if tensor.is_inference():
        return lambda: None
    alias, flag, leaf, version = tensor.data, tensor.requires_grad, tensor.is_leaf, _version(tensor)
    grad = tensor.grad if leaf else None

    def restore() -> None:
        if _place(tensor) != _place(alias):
            tensor.data = alias
        if leaf and tensor.requires_grad != flag:
            tensor.requires_grad_(flag)
        if leaf and tensor.grad is not grad:
            tensor.grad = grad
        if _version(tensor) != version:  # its values are those of that version again, and a graph may wait for them
            _unsafe_set_version_counter((tensor,), (version,))

    return restore


def _version(tensor: Tensor) -> int:
    return int(tensor._version)  # noqa: SLF001 - autograd's count of the writes to a tensor


def _same_attributes(module: nn.Module) -> Callable[[], None]:
    """A function that gives a module its attributes back, and the entries of those that are lists, sets and dicts."""
    if isinstance(module, torch.jit.ScriptModule):
        return lambda: None
    kind, containers = type(module), [v for v in vars(module).values() if isinstance(v, dict | list | set)]
    before = [(value, _entries(value)) for value in (vars(module), *containers)]

    def restore() -> None:
        if type(module) is not kind:
            module.__class__ = kind
        for value, entries in before:
            if not _same(_entries(value), entries):
                _refill(value, entries)

    return restore


Entries = tuple[list[Any], list[Any]]


def _entries(value: dict[Any, Any] | list[Any] | set[Any]) -> Entries:
    """Keys and values of a dict; the members of a list or set, and nothing."""
    return list(value), list(value.values()) if isinstance(value, dict) else []


def _same(one: Entries, other: Entries) -> bool:
    """Whether both hold the very same objects in the same order."""
    mine, its = [*one[0], *one[1]], [*other[0], *other[1]]
    return len(mine) == len(its) and all(a is b for a, b in zip(mine, its, strict=True))


def _refill(value: dict[Any, Any] | list[Any] | set[Any], entries: Entries) -> None:
    value.clear()
    if isinstance(value, list):
        value.extend(entries[0])
    elif isinstance(value, dict):
        value.update(zip(*entries, strict=True))
    else:
        value.update(entries[0])


@contextmanager
def _random_states(devices: Iterable[torch.device]) -> Iterator[None]:
    python = random.getstate()
    numpy = sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy else None
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for kind in {d.type for d in devices} - {"cpu", "meta"}:
            indices = sorted({d.index or 0 for d in devices if d.type == kind})
            stack.enter_context(torch.random.fork_rng(devices=indices, device_type=kind))
        try:
            yield
        finally:
            random.setstate(python)
            if numpy:
                numpy.random.set_state(drawn)
