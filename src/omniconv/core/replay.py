# SPDX-License-Identifier: Apache-2.0
"""Operators recorded once for inputs of one kind, and called again without the Python between them.

``Recording`` watches a function run and writes down what torch's dispatcher is asked for; ``Replay`` asks it for the
same again, in one call of the compiled library (csrc/replay.cpp) for as many operators in a row as it can pass the
arguments of. That is right where the function takes the same steps for all inputs of these shapes, strides and types.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .lending import Lease, Storages, leased, needed
from .lending import identity as _storage
from .native import recording

RANDOM, SHAPED = torch.Tag.nondeterministic_seeded, torch.Tag.dynamic_output_shape
READS = frozenset({"aten::_local_scalar_dense", "aten::item", "aten::equal", "aten::is_nonzero"})
# As csrc/replay.cpp numbers the kinds of arguments, and torch its types and formats.
NONE, TENSOR, INTEGER, FLOATING, BOOLEAN, WORD, INTEGERS, TENSORS, FLOATINGS, TYPE, FORMAT = range(11)
OPTIONAL = 16
TYPES = {
    torch.uint8: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.int64: 4,
    torch.float16: 5,
    torch.float32: 6,
    torch.float64: 7,
    torch.complex64: 9,
    torch.complex128: 10,
    torch.bool: 11,
    torch.bfloat16: 15,
}
FORMATS = {
    torch.contiguous_format: 0,
    torch.preserve_format: 1,
    torch.channels_last: 2,
    torch.channels_last_3d: 3,
}


class UnrepeatableError(Exception):
    """What was recorded may not be called again; the text says why."""


@dataclass
class Call:
    """One operator: its arguments in the schema's order, where a ``Register`` stands for a tensor, and its results."""

    func: Any
    arguments: list[Any]
    results: list[int]
    listed: bool
    words: list[int] | None  # as the library reads it, or None where it cannot pass an argument
    fresh: int = 0  # bytes of its result, where that is a tensor of this library's with memory of its own


@dataclass(frozen=True)
class Register:
    """The place of a tensor."""

    number: int


class Recording(TorchDispatchMode):
    """Watches operators run. Tensors that come from neither the inputs nor a recorded operator are constants."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.count = 0
        self.calls: list[Call] = []
        self.constants: dict[int, Tensor] = {}
        self._number: dict[int, int] = {}  # of tensors that are alive, by their identity
        self._alive: list[ref[Tensor]] = []
        self._storages = Storages()
        self.memory: dict[int, int] = {}  # of each register, the number of its memory
        self._fresh: set[int] = set()  # storages of constants that were made here, and that no call has read
        self._made: list[Tensor] = []  # these, so that no other storage takes the place of one
        self.inputs = len(inputs)
        for tensor in inputs:
            self._place(tensor)

    def __enter__(self) -> Any:
        recording.depth += 1
        return super().__enter__()

    def __exit__(self, *exception: object) -> Any:
        recording.depth -= 1
        return super().__exit__(*exception)

    def number_of(self, tensor: Tensor) -> int:
        """The register of a tensor, which becomes a constant where it has none."""
        found = self._number.get(id(tensor))
        if found is None:
            found = self._place(tensor)
            self.constants[found] = tensor
        return found

    def _place(self, tensor: Tensor | None) -> int:
        if tensor is None:  # of an operator that may leave a result out
            self.count += 1
            return self.count - 1
        own = id(tensor)
        self._alive.append(ref(tensor, lambda _: self._number.pop(own, None)))  # another may take its place
        self._number[own] = self.count
        self.memory[self.count] = self._storages.number_of(tensor)
        self.count += 1
        return self.count - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema  # noqa: SLF001
        if RANDOM in func.tags:
            raise UnrepeatableError(f"{schema.name} draws random numbers")
        if SHAPED in func.tags and (schema.name != "aten::index" or _masks(args[1])):
            raise UnrepeatableError(f"{schema.name} returns as much as the numbers say")
        arguments = _in_order(schema, args, kwargs)
        read = [tensor for value in arguments for tensor in _tensors(value)]
        known = [
            tensor for tensor in read if id(tensor) in self._number and self._number[id(tensor)] not in self.constants
        ]
        if not known:
            return self._constant(func, schema, arguments, args, kwargs)
        if schema.name in READS:
            raise UnrepeatableError(f"{schema.name} looks at numbers")
        for argument, value in zip(schema.arguments, arguments, strict=True):
            if argument.alias_info is not None and argument.alias_info.is_write and not _all_in(value, known):
                raise UnrepeatableError(f"{schema.name} writes to a constant")
        numbers = [_registers(value, self.number_of) for value in arguments]
        self._fresh -= {_storage(tensor) for tensor in read}
        result = func(*args, **kwargs)
        listed, found = isinstance(result, list), _results(result)
        if len(schema.returns) > 1 and listed:
            raise UnrepeatableError(f"{schema.name} returns lists among others")
        known_memory = self._storages.count
        places = [self._number.get(id(tensor), -1) for tensor in found]
        places = [self._place(tensor) if at < 0 else at for at, tensor in zip(places, found, strict=True)]
        words = None if None in found else _written(func, schema, numbers, places, listed=listed)
        own = func.namespace == "omniconv" and len(found) == 1 and self._storages.count > known_memory
        fresh = found[0].untyped_storage().nbytes() if own else 0
        self.calls.append(Call(func, numbers, places, listed, words, fresh))
        return result

    def _constant(self, func: Any, schema: Any, arguments: list[Any], args: Any, kwargs: Any) -> Any:
        """What depends on no input: computed now, and never again."""
        for argument, value in zip(schema.arguments, arguments, strict=True):
            writes = argument.alias_info is not None and argument.alias_info.is_write
            if writes and any(_storage(tensor) not in self._fresh for tensor in _tensors(value)):
                raise UnrepeatableError(f"{schema.name} writes to a constant")
        result = func(*args, **kwargs)
        before = {_storage(tensor) for value in arguments for tensor in _tensors(value)}
        for tensor in _results(result):
            if isinstance(tensor, Tensor) and _storage(tensor) not in before:
                self._fresh.add(_storage(tensor))
                self._made.append(tensor)
        return result


@dataclass
class Segment:
    """Calls in a row: a program for the library, or one that Python makes."""

    reads: list[int]
    writes: list[int]
    program: Tensor | None
    call: Call | None = None
    constants: list[Tensor] = field(default_factory=list)
    done: list[int] = field(default_factory=list)  # what no later one reads


class Replay:
    """What was recorded, called again with other inputs of the same kind.

    Args:
        recording: of a run.
        results: the tensors that the run returned.
    """

    def __init__(self, recording: Recording, results: Sequence[Tensor]) -> None:
        self.wanted = [recording._number.get(id(tensor), -1) for tensor in results]  # noqa: SLF001
        if any(at < 0 or at in recording.constants for at in self.wanted):
            raise UnrepeatableError("a result depends on no input")
        self.constants = dict(recording.constants)
        self._leases, self._room = self._lend(recording)
        self.segments = list(self._cut(recording.calls))
        later = set(self.wanted)
        for segment in reversed(self.segments):
            segment.done = [at for at in {*segment.reads, *segment.writes} - later if at >= recording.inputs]
            later |= {*segment.reads, *segment.writes}
        self._call = torch.ops.omniconv.replay.default._op  # noqa: SLF001

    def _lend(self, recording: Recording) -> tuple[dict[int, Lease], int]:
        """By the call that makes it, where a result may lie that nobody keeps; and all bytes for those."""
        calls, memory = recording.calls, recording.memory
        kept = {memory[at] for at in (*self.wanted, *self.constants, *range(recording.inputs))}
        last = needed([[*_numbers(call.arguments), *call.results] for call in calls], memory, kept)
        made = {memory[call.results[0]]: at for at, call in enumerate(calls) if call.fresh and call.words is not None}
        sizes = {number: (at, last[number], calls[at].fresh) for number, at in made.items() if number in last}
        found, room = leased(sizes)
        return {made[number]: lease for number, lease in found.items()}, room

    def _cut(self, calls: list[Call]) -> Any:
        last = {at: len(calls) for at in self.wanted}
        for place in range(len(calls) - 1, -1, -1):
            for at in (*_numbers(calls[place].arguments), *calls[place].results):
                last.setdefault(at, place)
        begin = 0
        while begin < len(calls):
            end = begin + 1
            if calls[begin].words is not None:
                while end < len(calls) and calls[end].words is not None:
                    end += 1
                yield self._program(calls, begin, end, last)
            else:
                read = [at for at in dict.fromkeys(_numbers(calls[begin].arguments)) if at not in self.constants]
                yield Segment(read, calls[begin].results, None, calls[begin])
            begin = end

    def _program(self, calls: list[Call], begin: int, end: int, last: dict[int, int]) -> Segment:
        """The library's program of some calls; its registers are numbered anew, what it reads first."""
        made: set[int] = set()
        read: dict[int, None] = {}
        for call in calls[begin:end]:
            read |= {at: None for at in _numbers(call.arguments) if at not in made}
            made |= set(call.results)
        given = [at for at in read if at not in self.constants]
        fixed = [at for at in read if at in self.constants]
        kept = [at for at in made if last[at] >= end]
        place = {at: n for n, at in enumerate([*given, *fixed, *sorted(made - set(read))])}
        words = [len(place), len(kept), *(place[at] for at in kept), self._room, end - begin]
        for number, call in enumerate(calls[begin:end], begin):
            used = dict.fromkeys((*_numbers(call.arguments), *call.results))
            done = [place[at] for at in used if last[at] == number and at not in kept]
            words += [*self._leases.get(number, (-1, 0)), *_placed(call, place)]
            words += [int(call.listed), len(call.results), *(place[at] for at in call.results), len(done), *done]
        constants = [self.constants[at] for at in fixed]
        return Segment(given, kept, torch.tensor(words, dtype=torch.int64), None, constants)

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        held: dict[int, Any] = dict(enumerate(inputs))
        for segment in self.segments:
            if segment.call is None:
                found = self._call([*(held[at] for at in segment.reads), *segment.constants], segment.program)
            else:
                found = _results(_called(segment.call, held, self.constants))
            held.update(zip(segment.writes, found, strict=True))
            del found
            for at in segment.done:
                del held[at]
        return [held[at] for at in self.wanted]


def _called(call: Call, held: dict[int, Any], constants: dict[int, Tensor]) -> Any:
    def value(argument: Any) -> Any:
        if isinstance(argument, Register):
            return constants[argument.number] if argument.number in constants else held[argument.number]
        return [value(one) for one in argument] if isinstance(argument, list) else argument

    schema = call.func._schema  # noqa: SLF001
    args = [value(a) for a, s in zip(call.arguments, schema.arguments, strict=True) if not s.kwarg_only]
    kwargs = {s.name: value(a) for a, s in zip(call.arguments, schema.arguments, strict=True) if s.kwarg_only}
    return call.func(*args, **kwargs)


def _in_order(schema: Any, args: Any, kwargs: Any) -> list[Any]:
    """Arguments as the schema orders them, defaults included."""
    rest = schema.arguments[len(args) :]
    return [*args, *(kwargs.get(argument.name, argument.default_value) for argument in rest)]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for one in value for tensor in _tensors(one)] if isinstance(value, list | tuple) else []


def _masks(indices: Any) -> bool:
    return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in _tensors(indices))


def _all_in(value: Any, known: list[Tensor]) -> bool:
    return all(any(tensor is one for one in known) for tensor in _tensors(value))


def _registers(value: Any, number: Any) -> Any:
    if isinstance(value, Tensor):
        return Register(number(value))
    return [_registers(one, number) for one in value] if isinstance(value, list | tuple) else value


def _numbers(value: Any) -> list[int]:
    if isinstance(value, Register):
        return [value.number]
    return [at for one in value for at in _numbers(one)] if isinstance(value, list) else []


def _results(result: Any) -> list[Any]:
    if result is None:
        return []
    return list(result) if isinstance(result, list | tuple) else [result]


def _written(func: Any, schema: Any, arguments: list[Any], results: list[int], *, listed: bool) -> list[int] | None:
    """A call as the library reads it, registers as they were recorded; None where it cannot pass an argument."""
    if not all(str(one.real_type) in ("Tensor", "List[Tensor]") for one in schema.returns):
        return None
    words = [*_text(schema.name), *_text(schema.overload_name), len(arguments)]
    for argument, value in zip(schema.arguments, arguments, strict=True):
        found = _word(str(argument.real_type), value)
        if found is None:
            return None
        words += found
    return words


def _text(text: str) -> list[int]:
    line = text.encode() + b"\0"
    line += b"\0" * (-len(line) % 8)
    return [len(line) // 8, *struct.unpack(f"<{len(line) // 8}q", line)]


def _word(kind: str, value: Any) -> list[Any] | None:
    optional = OPTIONAL if kind.startswith("Optional[") else 0
    kind = kind.removeprefix("Optional[").removesuffix("]") if optional else kind
    if value is None:
        return [NONE] if optional else None
    if kind == "Tensor" and isinstance(value, Register):
        return [TENSOR + optional, value]
    if kind == "List[Tensor]" and all(isinstance(one, Register) for one in value):
        return [TENSORS + optional, len(value), *value]
    if kind in ("int", "SymInt") and type(value) is int:
        return [INTEGER + optional, value]
    if kind == "bool" and type(value) is bool:
        return [BOOLEAN + optional, int(value)]
    if kind == "float" and type(value) in (int, float):
        return [FLOATING + optional, _double(value)]
    if kind == "str" and type(value) is str:
        return [WORD + optional, *_text(value)]
    if kind in ("List[int]", "List[SymInt]") and all(type(one) is int for one in value):
        return [INTEGERS + optional, len(value), *value]
    if kind == "List[Optional[number]]" and not value:
        return [INTEGERS + optional, 0]
    if kind == "ScalarType" and (value in TYPES or type(value) is int):
        return [TYPE + optional, TYPES.get(value, value)]
    if kind == "MemoryFormat" and (value in FORMATS or type(value) is int):
        return [FORMAT + optional, FORMATS.get(value, value)]
    if kind == "List[float]" and all(type(one) in (int, float) for one in value):
        return [FLOATINGS + optional, len(value), *map(_double, value)]
    return None


def _double(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", float(value)))[0])


def _placed(call: Call, place: dict[int, int]) -> list[int]:
    words: Any = call.words
    return [place[word.number] if isinstance(word, Register) else word for word in words]
