# SPDX-License-Identifier: Apache-2.0
"""What follows a convolution: a norm, an addend, an activation; and whether one compiled call computes it all.

It does in eager inference on a CPU, in float32 and bfloat16, for batch norms that are no longer training and the
activations below; behind any other convolution of the same types, one pass over its output does. With gradients
``activated.py`` is asked first. Else each part is called by itself, so that compilers, hooks and profiles see it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.modules import module as modules

from .native import PLAIN, Native, plain, watching
from .observe import current_listener
from .problem import ConvProblem

Norm = Callable[[int], nn.Module] | nn.Module
Activation = Callable[..., Any] | nn.Module
Part = Callable[..., Tensor] | nn.Module | None
Terms = tuple[list[Tensor], float]  # of a batch norm: mean, variance, factor, shift; and epsilon

# The numbers of csrc/kernels.h
_CODES: dict[Any, int] = {
    type(None): 0,
    nn.Identity: 0,
    nn.ReLU: 1,
    F.relu: 1,
    torch.relu: 1,
    nn.ReLU6: 2,
    F.relu6: 2,
    nn.SiLU: 3,
    F.silu: 3,
    F.gelu: 4,
    nn.Hardswish: 6,
    F.hardswish: 6,
}
_GELU = {"none": 4, "tanh": 5}
_GLOBAL_HOOKS = (
    modules._global_forward_hooks,  # noqa: SLF001
    modules._global_forward_pre_hooks,  # noqa: SLF001
    modules._global_backward_hooks,  # noqa: SLF001
    modules._global_backward_pre_hooks,  # noqa: SLF001
)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NO_NORM: Terms = ([], 0.0)


def norm_of(name: str, given: Any, channels: int, device: Any, dtype: Any) -> nn.Module | None:
    """A norm as it was given to a layer, or made from it."""
    if given is None or isinstance(given, nn.Module):
        return given
    made = given(channels) if callable(given) else None
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"`{name}` (={given!r}) must be a module, or make one from a number of channels; use nn.BatchNorm2d."
        )
    return made.to(device=device, dtype=dtype)


def activation_of(name: str, given: Any) -> Callable[..., Any] | None:
    """An activation as it was given to a layer, or made from its class."""
    if given is None or isinstance(given, nn.Module):
        return given
    if not callable(given):
        raise TypeError(f"`{name}` (={given!r}) must be a module, its class, or a function of a tensor; use nn.ReLU.")
    makes = given.func if isinstance(given, partial) else given  # partial(nn.ReLU, inplace=True) makes a module
    return given() if isinstance(makes, type) else given


def follow(output: Tensor, norm: nn.Module | None, residual: Tensor | None, activation: Part) -> Tensor:
    """What follows ``output``, which nobody else holds: in one pass over it, or by the parts."""
    if norm is None and residual is None and activation is None:
        return output
    if _in_place(output, norm, residual, activation):
        return output
    output = output if norm is None else norm(output)
    output = output if residual is None else output + residual
    return output if activation is None else activation(output)


@cache
def _activate() -> Callable[..., Tensor]:
    return torch.ops.omniconv.activate.default._op  # noqa: SLF001


def activated_beside(input: Tensor, code: int) -> Tensor:
    """The activation of that number, computed by the compiled library, which must be there; ``input`` stays."""
    return _activate()(input, code)


@cache
def _pass() -> Callable[..., None] | None:
    return torch.ops.omniconv.follow_.default._op if hasattr(torch.ops.omniconv, "follow_") else None  # noqa: SLF001


def follows_at_once() -> bool:
    """Whether there is a compiled pass for what follows a convolution."""
    return _pass() is not None


def follow_at_once(output: Tensor, terms: Terms, residual: Tensor | None, code: int) -> None:
    """The compiled pass over the output of a convolution, which nobody else holds."""
    if terms[0] or residual is not None or code:
        _pass()(output, *terms, residual, code)  # type: ignore[misc]  # there is a library where there is a caller


def _in_place(output: Tensor, norm: nn.Module | None, residual: Tensor | None, activation: Part) -> bool:
    """Whether the compiled pass was made."""
    if is_dynamo_compiling() or _pass() is None or type(output) not in PLAIN or not 3 <= output.dim() <= 5:
        return False
    if watching():  # who sees operators run may keep what they return
        return False
    terms, code = norm_terms(norm, output.dim() - 2), activation_code(activation)
    if terms is None or code is None or hooked((norm, activation)) or not takes((output, residual, *terms[0])):
        return False
    if not (output.is_contiguous() or _lies_innermost(output)):
        return False
    follow_at_once(output, terms, residual, code)
    return True


def _lies_innermost(output: Tensor) -> bool:
    """Whether channels lie side by side and numbers without gaps: told by strides, since a view would be a step."""
    step, strides = 1, output.stride()
    for axis in (1, *range(output.dim() - 1, 1, -1), 0):
        if output.shape[axis] != 1 and strides[axis] != step:
            return False
        step *= output.shape[axis]
    return True


def check_residual(problem: ConvProblem, input: object, residual: object) -> None:
    """Raise unless ``residual`` can be added to what ``problem`` makes of ``input``, without being expanded.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape than the output's.
    """
    if isinstance(residual, torch.fx.Proxy):  # symbolic tracing knows no shapes
        return
    if not isinstance(residual, Tensor):
        raise TypeError(f"`residual` (={type(residual).__name__}) must be a torch.Tensor or None.")
    if not isinstance(input, Tensor) or input.dim() not in (problem.dim + 1, problem.dim + 2):
        return  # the convolution says what is wrong with it
    if input.shape[-problem.dim - 1] != problem.in_channels:
        return
    want = output_shape(problem, input)
    if tuple(residual.shape) != want:
        raise ValueError(f"`residual` shape (={tuple(residual.shape)}) must be that of the output, {want}.")


def output_shape(problem: ConvProblem, input: Tensor) -> tuple[int, ...]:
    """Of what ``problem`` makes of ``input``."""
    size = problem.out_size_of(tuple(input.shape[-problem.dim :]))
    return (*input.shape[: -problem.dim - 1], problem.out_channels, *size)


def activation_code(activation: Part) -> int | None:
    """The number of an activation that the library computes, or None."""
    if type(activation) is nn.GELU:
        return _GELU.get(activation.approximate)
    try:
        return _CODES.get(type(activation) if activation is None or isinstance(activation, nn.Module) else activation)
    except TypeError:  # what has no hash is none of them
        return None


def norm_terms(norm: nn.Module | None, dim: int) -> Terms | None:
    """A batch norm of ``dim`` axes as an affine map of channels, or None where it is none: in training, or another."""
    if norm is None or type(norm) is nn.Identity:
        return NO_NORM
    if type(norm) is not _NORMS[dim - 1] or norm.training:
        return None
    terms: list[Any] = [norm.running_mean, norm.running_var, norm.weight, norm.bias]
    return None if any(term is None for term in terms) else (terms, norm.eps)


def hooked(parts: Sequence[Part]) -> bool:
    """Whether someone waits for the calls of modules among ``parts``."""
    if any(_GLOBAL_HOOKS):
        return True
    for part in parts:
        if isinstance(part, nn.Module) and (
            part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks  # noqa: SLF001
        ):
            return True
    return any("forward" in vars(part) for part in parts if isinstance(part, nn.Module))


def takes(tensors: Sequence[Any], leaves: tuple[torch.dtype, ...] = (), *, recorded: bool = False) -> bool:
    """Whether one compiled call may compute with these tensors, the input first: nothing but eager inference looks.

    ``leaves`` are the types in which channels last is left to ATen; where it is ``recorded``, autograd may look too.
    """
    input = tensors[0]
    if current_listener() is not None or not plain(tensors) or torch.is_autocast_enabled("cpu"):
        return False
    if not Native.takes(input, leaves):
        return False
    recording, dtype = torch.is_grad_enabled() and not recorded, input.dtype
    for t in tensors:
        if t is not None and (not t.is_cpu or t.dtype != dtype or t.layout is not torch.strided):
            return False
        if t is not None and recording and t.requires_grad:
            return False
    return True


class Packing:
    """The weights of a pointwise convolution as the compiled kernel reads them: packed when they come a second time.

    A change that torch counts packs them anew. One past its count (``.data``, shared storage) is seen by the kernel,
    which looks at a weight of each row and each column, and then packs for itself; of single weights changed so, none
    may be looked at, and none is where they are ``sealed``. Threads may share one: what it holds is replaced whole. It
    lets go when the weights are freed.
    """

    def __init__(self, *, sealed: bool = False) -> None:
        self.sealed = sealed  # whether nobody changes the weights past torch's count
        self._held: list[Any] = []  # of which weights, a reference to them, and (perhaps not yet) those packed

    def of(self, input: Tensor, owner: Tensor, weight: Tensor | None = None) -> Tensor | None:
        """Packed weights for inputs that lie so; ``weight`` is ``owner`` in the shape of a convolution's."""
        if owner.is_inference():  # whose changes nobody counts
            return None
        key = (owner._version, owner.data_ptr(), owner.dtype, input.stride(1) == 1)  # noqa: SLF001
        held = tuple(self._held)
        if not held or held[0] != key or held[1]() is not owner:
            self._hold(key, owner, None)
            return None
        packed: Tensor | None = held[2]
        if packed is None:
            own = owner if weight is None else weight
            packed = torch.ops.omniconv.pointwise_pack(input, own.detach(), not self.sealed)
            self._hold(key, owner, packed)
        return packed if packed is not None and packed.shape[0] else None

    def _hold(self, key: Any, owner: Tensor, packed: Tensor | None) -> None:
        new: list[Any] = []
        new += key, ref(owner, lambda _: new.clear()), packed
        self._held = new
