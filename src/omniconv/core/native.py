# SPDX-License-Identifier: Apache-2.0
"""Kernels of the compiled library as torch sees them, once for all families.

A kernel ``native`` of a family has four operators: ``<family>_native`` and ``<family>_native_backward``, which
compiled graphs hold and autograd differentiates, and the same two with ``_raw`` behind them, which eager code calls: an
Autograd kernel in Python costs 5 µs even where no gradient is wanted. (They are no overloads of the family's operator:
torch 2.13 aborts at exit where the schemas of overloads differ.)

They take the tensors of the schema and its other arguments as one list of integers (``flat.py``). The backward one
takes the gradient of the output first, and last the number ``wanted``: bit i asks for the gradient of tensor i. It
returns one tensor for each, of no elements where none was asked.

Where autograd records and ``aten::convolution_overrideable`` means the same, eager code calls that: the library fills
it in, and torch differentiates it without Python.

Gradients of gradients, the transforms of ``torch.func`` and tensors other than torch's own go through a kernel of the
family that is made of ATen calls: its ``portable`` one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.autograd import forward_ad

from .choose import MOST_LEFT_TAPS
from .family import Family, Kernel, Shape
from .flat import Flat
from .flops import count_as
from .problem import ConvProblem

Function = Callable[..., Tensor]
Way = tuple[Function, tuple[Any, ...]]  # a function, and what it takes behind the tensors
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
TYPES = frozenset({torch.float32, torch.bfloat16})
FLOATING = TYPES | {torch.float64, torch.float16, torch.complex64, torch.complex128}
PLAIN = frozenset({Tensor, torch.nn.Parameter})
LEAST_LEFT_SIZE = 2 * MOST_LEFT_TAPS  # of images in bfloat16
# Names of torch's own that are not promised to stay: found here at import, so that their absence fails at once.
transforming: Callable[[], bool] = torch._C._are_functorch_transforms_active  # noqa: SLF001
tracing: Callable[[], bool] = torch._C._is_tracing  # noqa: SLF001  # torch.jit.trace, and the ONNX export made of it
stacked: Callable[[], int] = torch._C._len_torch_dispatch_stack  # noqa: SLF001  # how many modes see operators run
OVERRIDEABLE = torch.ops.aten.convolution_overrideable.default._op  # noqa: SLF001


class _Recording(threading.local):
    """How many modes of this library see operators run: recordings, before which all is computed as without them."""

    depth = 0


recording = _Recording()


def watching() -> bool:
    """Whether a mode of others sees operators run."""
    return stacked() > recording.depth


assert isinstance(forward_ad._current_level, int)  # noqa: S101, SLF001


def stays_step(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that stays a step where its graph is traced again, as it is where it was pickled."""

    @wraps(function)
    def called(value: Any, *more: Any) -> Any:
        if isinstance(value, torch.fx.Proxy):
            return value.tracer.create_proxy("call_function", called, (value, *more), {})
        return function(value, *more)

    return called


@stays_step
def channels_innermost(value: Any) -> Any:
    """An image or volume with its channels innermost; anything else as it is."""
    if not isinstance(value, Tensor) or value.dim() not in FORMATS or transforming():
        return value
    return value.contiguous(memory_format=FORMATS[value.dim()])


def plain(tensors: Sequence[Any]) -> bool:
    """Whether the tensors are torch's own and nothing but eager code and autograd looks on."""
    # `is_dynamo_compiling` is cheaper than `is_compiling`, and other tracers bring tensors of their own types.
    if torch.compiler.is_dynamo_compiling() or transforming() or tracing() or forward_ad._current_level >= 0:  # noqa: SLF001
        return False
    return all([t is None or type(t) in PLAIN for t in tensors])  # noqa: C419  # a list is built faster than a generator


class Native:
    """One kernel of the library, for one family: its operators.

    ``universal`` is the portable kernel that takes every problem; it stands for the formula where an operator is
    called by name and its problem is not known.
    """

    def __init__(self, family: Family, kernel: Kernel, universal: Function, library: torch.library.Library) -> None:
        self.count = len(family.tensor_names)
        self.universal = universal
        self._part, self._bind = family.part, kernel.bind
        self.flat = Flat(family.schema, kernel.words)
        self.exact = [name in kernel.exact for name in family.tensor_names]
        name = f"{family.name}_{kernel.name}"
        kinds = [a for a in family.schema[1:].split(", ") if a.startswith("Tensor")]
        arguments, results = ", ".join([*kinds, "SymInt[] numbers"]), ", ".join(["Tensor"] * self.count)
        for suffix in ("", "_raw"):
            library.define(f"{name}{suffix}({arguments}) -> Tensor")
            library.define(f"{name}_backward{suffix}(Tensor grad, {arguments}, int wanted) -> ({results})")
        self.operator, self.raw, self.backward, self.raw_backward = (
            getattr(torch.ops.omniconv, name + end).default for end in ("", "_raw", "_backward", "_backward_raw")
        )
        # Without the Python frame of OpOverload.__call__, which only calls this
        self.call, self.call_backward = self.raw._op, self.raw_backward._op  # noqa: SLF001
        for raw in (f"{name}_raw", f"{name}_backward_raw"):
            library.impl(raw, torch.library.fallthrough_kernel, "Autograd")
        for operator in (self.operator, self.raw):
            torch.library.register_fake(operator, self._fake, lib=library)
        for operator in (self.backward, self.raw_backward):
            torch.library.register_fake(operator, self._fake_backward, lib=library)
        torch.library.register_autograd(self.operator, self._differentiate, setup_context=self._remember, lib=library)
        torch.library.register_autograd(
            self.backward, self._differentiate_twice, setup_context=self._remember, lib=library
        )
        library.impl(name, self._autocast, "AutocastCPU")
        torch.library.register_vmap(self.operator, self._mapped, lib=library)
        biases = mask([tensor.endswith("bias") for tensor in family.tensor_names])
        count_as(self._through_any, (self.operator, self.raw), (self.backward, self.raw_backward), biases)

    def bound(self, problem: ConvProblem, numbers: tuple[Any, ...], flat: tuple[int, ...], recorded: Way) -> list[Way]:
        """What eager code calls, and with what behind the tensors, without gradients and (``recorded``) with them."""
        bind = self._bind and not torch.compiler.is_dynamo_compiling()  # such a plan runs nothing itself
        own = getattr(self._part("packed"), self._bind)(problem, recorded[0], *numbers) if bind else (None, None)
        ways = (self.call, (flat,)), recorded
        return [(given, ()) if given else way for given, way in zip(own, ways, strict=True)]

    def lowered(self, tensors: Sequence[Tensor | None], dtype: torch.dtype | None = None) -> tuple[Tensor | None, ...]:
        """The tensors in the type that autocast asks for, if it is on, or in ``dtype``; float64 and exact ones stay."""
        if not torch.is_autocast_enabled("cpu"):
            return tuple(tensors)
        dtype = dtype or torch.get_autocast_dtype("cpu")
        return tuple(
            t if exact or t is None or t.dtype == torch.float64 else t.to(dtype)
            for t, exact in zip(tensors, self.exact, strict=True)
        )

    @staticmethod
    def takes(input: Tensor, leaves: tuple[torch.dtype, ...]) -> bool:
        """Whether the library computes this input; it ``leaves`` channels last in these types to ATen."""
        if input.dtype not in TYPES or not input.is_cpu or input.layout is not torch.strided:
            return False
        if input.dtype not in leaves or input.stride(1) != 1 or input.stride(-1) == 1:
            return True
        return input.dtype == torch.bfloat16 and min(input.shape[2:]) < LEAST_LEFT_SIZE

    def eager(
        self,
        portable: Function,
        tensors: Sequence[Tensor | None],
        flat: tuple[int, ...],
        overrideable: tuple[Any, ...] | None,
    ) -> Tensor:
        """Compute; where a gradient may be asked for later, so that the library computes that too."""
        if torch.is_grad_enabled():
            for tensor in tensors:
                if tensor is not None and tensor.requires_grad:
                    if overrideable is not None:
                        return OVERRIDEABLE(*tensors, *overrideable)
                    return _Recorded.apply((self, portable, flat), *tensors)
        return self.call(*tensors, flat)

    def _autocast(self, *arguments: Any) -> Tensor:
        *tensors, flat = arguments
        narrow = self.lowered(tensors, torch.bfloat16)
        with torch.autocast("cpu", enabled=False):
            return self.operator(*narrow, flat)

    def _through_any(self, *arguments: Any) -> Tensor:
        *tensors, flat = arguments
        return self.universal(*tensors, *self.flat.unpack(flat))

    def _fake(self, *arguments: Any) -> Tensor:
        return _laid_like(arguments[0], tuple(self._through_any(*arguments).shape))

    def _fake_backward(self, grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, _, wanted = arguments
        found = [
            t.new_empty(t.shape) if t is not None and wanted >> at & 1 else grad.new_empty(0)
            for at, t in enumerate(tensors)
        ]
        if wanted & 1:
            found[0] = _laid_like(tensors[0], tuple(tensors[0].shape))
        return tuple(found)

    @staticmethod
    def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        # (grad,) tensors, flat (, wanted)
        last = next(at for at, value in enumerate(inputs) if isinstance(value, (list, tuple)))
        ctx.save_for_backward(*inputs[:last])
        ctx.flat, ctx.wanted = inputs[last], inputs[-1]

    def _differentiate(self, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[: self.count]
        return *where(self.backward(grad, *ctx.saved_tensors, ctx.flat, mask(needed)), needed), None

    def _differentiate_twice(self, ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[: self.count + 1]
        graph, asked = torch.is_grad_enabled(), [ctx.wanted >> at & 1 for at in range(self.count)]
        with torch.enable_grad():
            grad, *tensors = own = _apart(saved)
            once = through(self._through_any, tensors, ctx.flat, grad, asked, graph=True)
            pairs = [(one, two) for one, two in zip(once, grads, strict=True) if one is not None and two is not None]
            leaves = [t for t, need in zip(own, needed, strict=True) if need]
            outputs, factors = zip(*pairs, strict=True)
            found = torch.autograd.grad(outputs, leaves, factors, create_graph=graph, allow_unused=True)
        return *_spread(found, needed), None, None

    def _mapped(self, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
        *tensors, flat = arguments
        samples = (
            [t if dim is None else t.select(dim, at) for t, dim in zip(tensors, in_dims[: self.count], strict=True)]
            for at in range(info.batch_size)
        )
        return torch.stack([self.operator(*sample, flat) for sample in samples]), 0


class _Recorded(torch.autograd.Function):
    # `forward` with `ctx`: the newer form, with `setup_context`, costs 40 µs a call
    @staticmethod
    def forward(ctx: Any, how: tuple[Native, Function, tuple[int, ...]], *tensors: Any) -> Tensor:
        ctx.how = how
        ctx.save_for_backward(*tensors)
        return how[0].call(*tensors, how[2])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (native, formula, flat), tensors, needed = ctx.how, ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or not plain((*grads, *tensors)):
            numbers = native.flat.unpack(flat)

            def portable(*arguments: Any) -> Tensor:
                return formula(*arguments[:-1], *numbers)

            found = through(portable, tensors, flat, grads[0], needed, graph=torch.is_grad_enabled())
        else:
            found = where(native.call_backward(grads[0], *tensors, flat, mask(needed)), needed)
        return None, *found


def through(
    function: Function, tensors: Sequence[Any], flat: Any, grad: Tensor, needed: Sequence[Any], *, graph: bool
) -> list[Tensor | None]:
    """The gradients of a function made of ATen calls, with gradients of their own where a ``graph`` is asked for."""
    with torch.enable_grad():
        own = _apart(tensors)
        leaves = [t for t, need in zip(own, needed, strict=True) if need]
        found = torch.autograd.grad(function(*own, flat), leaves, grad, create_graph=graph)
    return _spread(found, needed)


def _apart(tensors: Sequence[Tensor | None]) -> list[Any]:
    """Aliases, where a differentiation stops even if one tensor was computed from another."""
    return [t if t is None else t.view_as(t) for t in tensors]


def mask(needed: Sequence[Any]) -> int:
    """Bit i for each tensor number i that is needed."""
    return sum(1 << at for at, need in enumerate(needed) if need)


def where(found: Sequence[Tensor], needed: Sequence[Any]) -> list[Tensor | None]:
    """Those of the tensors found that are needed, None in the place of others."""
    return [one if need else None for one, need in zip(found, needed, strict=True)]


def _spread(found: Sequence[Tensor | None], needed: Sequence[Any]) -> list[Tensor | None]:
    """``found`` at the places that are needed, and None elsewhere."""
    left = iter(found)
    return [next(left) if need else None for need in needed]


def _laid_like(input: Tensor, shape: Shape) -> Tensor:
    """An empty tensor with its channels innermost where the input's are, in order otherwise, as the library lays it."""
    if input.dim() > 3:
        form = suggest_memory_format(input)
        return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=form)
    (n, c, length), (batch, channel, position) = input.shape, input.stride()
    inner = n * c * length != 0 and 0 != channel != position * length
    if inner and position >= channel * c and batch >= position * length:
        return input.new_empty(shape[0], shape[2], shape[1]).transpose(1, 2)
    return input.new_empty(shape)
