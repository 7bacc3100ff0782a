# SPDX-License-Identifier: Apache-2.0
"""A convolution of all channels or large groups in eager inference, with what follows, of weights that stay packed.

In channels last and float32 a kernel of ours computes it as a product of matrices; else oneDNN does. ATen's convolution
reorders its weights at each call: a fifth of ResNet-50's time for one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from omniconv.core.activated import computed
from omniconv.core.chain import FollowedConv
from omniconv.core.choose import choose
from omniconv.core.flat import Flat
from omniconv.core.follow import (
    NO_NORM,
    activation_code,
    check_residual,
    follow_at_once,
    follows_at_once,
    hooked,
    takes,
)
from omniconv.core.native import PLAIN, TYPES, channels_innermost, watching
from omniconv.core.problem import ConvProblem

from . import FAMILY

Attribute = tuple[str, list[float], str]
# Of the numbers of csrc/kernels.h: what oneDNN calls the activation, its numbers, and which formula it is.
ATTRIBUTES: dict[int, Attribute] = {
    0: ("none", [], ""),
    1: ("relu", [], ""),
    2: ("hardtanh", [0.0, 6.0], ""),
    3: ("swish", [], ""),
    4: ("gelu", [], "none"),
    5: ("gelu", [], "tanh"),
    6: ("hardswish", [], ""),
}
RELU = 1  # the only one that oneDNN computes behind a sum
LEAST_GROUP = 16  # channels: a vector of them, which fewer leave in part unused
MOST_PLANES = 4  # channels of an input in order that are laid side by side on the way


@cache
def _operators() -> Any:
    """The operators that torch's compiler calls for the same, where this torch has them."""
    names = "_reorder_convolution_weight", "_convolution_pointwise"
    return torch.ops.mkldnn if torch.backends.mkldnn.is_available() and all(map(_has, names)) else None


def _has(name: str) -> bool:
    return hasattr(torch.ops.mkldnn, name)


@cache
def _takes(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in a type here: bfloat16 needs instructions that not every machine has."""
    if _operators() is None:
        return False
    return dtype is not torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def why_not_prepacked(problem: ConvProblem) -> str | None:
    """Why weights are not kept packed for a problem, in one sentence."""
    if problem.dim == 1:
        return "oneDNN's operators take images and volumes"
    if problem.padding_mode != "zeros" or not problem.fixed_pads:
        return "oneDNN pads with zeros, by numbers that no input changes"
    if _operators() is None and not _multiplication_pays(problem):
        return "this torch has no oneDNN"
    return None


@cache
def _implicit() -> Any:
    """The operators of a convolution as a product of matrices, where the compiled library has them."""
    return torch.ops.omniconv if hasattr(torch.ops.omniconv, "implicit_followed") else None


def _multiplication_pays(problem: ConvProblem) -> bool:
    """Whether products of matrices compute a problem in channels last about as fast as oneDNN, or faster."""
    channels = min(problem.in_channels, problem.out_channels) // problem.groups
    # Of taps that lie apart oneDNN leaves out more of those that meet padding alone
    close = all(d == 1 or k == 1 for d, k in zip(problem.dilation, problem.kernel_size, strict=True))
    broad = problem.groups == 1 or channels >= LEAST_GROUP
    return _implicit() is not None and problem.dim > 1 and close and broad


class PrepackedConv(FollowedConv):
    """A convolution that one call computes with an activation and an addend, its weights packed at the first call.

    Told that its output is to be ``innermost``, in channels last, it takes inputs of few channels in any layout.
    """

    def __init__(self, layer: Any, activation: nn.Module | None) -> None:
        super().__init__(layer, activation)
        problem = layer.problem
        pads: Sequence[tuple[int, int]] = problem.pads()
        # oneDNN 3.12 calls a kernel that it has not made where no tap meets an input; of these the first always does
        axes = zip(pads, problem.kernel_size, problem.dilation, strict=True)
        even = all(before == after and before % d == 0 and before // d < k for (before, after), k, d in axes)
        self._pads = None if even else tuple(amount for pair in reversed(pads) for amount in pair)  # F.pad: last first
        padding = [before for before, _ in pads] if even else [0] * problem.dim
        self._numbers = padding, list(problem.stride), list(problem.dilation), problem.groups
        self.multiplies = _multiplication_pays(problem)
        self._flat: tuple[int, ...] = Flat(FAMILY.schema, ("zeros",)).pack(FAMILY.numbers(problem, ()))
        self.lays = self.multiplies and problem.groups == 1 and problem.in_channels <= MOST_PLANES
        self._compiled = choose(problem).kernel.compiled  # which leaves some inputs to others
        # By who packed them: of which weights, a reference to them, and packed. Inputs of both kinds may take turns.
        self._held: dict[str, tuple[Any, ref[Tensor], Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": {}}  # packed weights are neither copied nor pickled

    def forward(self, input: Tensor, residual: Tensor | None = None, innermost: bool = False) -> Tensor:
        output = self._at_once(input, residual, innermost)
        if output is None and innermost:
            input = channels_innermost(input)
            output = self._at_once(input, residual)
        if output is not None:
            return output
        layer = self.layer
        return computed(layer.plan, (input, layer.weight, layer.bias), None, residual, self.activation)

    def _at_once(self, input: Tensor, residual: Tensor | None, innermost: bool = False) -> Tensor | None:
        layer: Any = self.layer
        if is_dynamo_compiling() or type(input) not in PLAIN or input.dim() != layer.problem.dim + 2 or watching():
            return None
        if input.shape[1] != layer.problem.in_channels:
            return None  # to the layer's plan, which says so
        code = activation_code(self.activation)
        if code is None or hooked((layer, self.activation)):
            return None
        if not takes((input, layer.weight, layer.bias, residual)) or input.numel() == 0 or layer.weight.is_inference():
            return None
        multiplied = self._is_multiplied(input, innermost)
        if not multiplied and (innermost or self._left(input, residual, code)):
            return None
        if residual is not None:
            check_residual(layer.problem, input, residual)
        return (self._multiplied if multiplied else self._convolved)(input, residual, code)

    def _is_multiplied(self, input: Tensor, innermost: bool) -> bool:
        problem = self.layer.problem
        if not self.multiplies or input.dtype not in TYPES:
            return False
        if input.dtype != torch.float32 and _takes(input.dtype):  # bfloat16, for which oneDNN has instructions
            return False
        if not innermost and (input.stride(1) != 1 or input.stride(-1) == 1 or input.shape[1] == 1):
            return False
        return bool(problem.out_size_of(tuple(input.shape[2:]))[-1] > 1)  # of one column most of each tile is unused

    def _left(self, input: Tensor, residual: Tensor | None, code: int) -> bool:
        """Whether oneDNN does not compute it, or not faster."""
        if not _takes(input.dtype) or (self._compiled and self.layer.plan.native(input)[0] is not None):
            return True
        return residual is not None and code not in (0, RELU) and not follows_at_once()

    def _multiplied(self, input: Tensor, residual: Tensor | None, code: int) -> Tensor:
        flat, layer = self._flat, self.layer
        packed = self._packed(layer.weight, "implicit", lambda own: _implicit().implicit_pack(input, own, flat))
        call = _implicit().implicit_followed.default._op  # noqa: SLF001  # without Python's way to it (core/native.py)
        found: Tensor = call(input, layer.weight, packed, layer.bias, *NO_NORM, residual, (*flat, code))
        return found

    def _convolved(self, input: Tensor, residual: Tensor | None, code: int) -> Tensor:
        layer = self.layer
        if self._pads is not None:
            input = F.pad(input, self._pads)
        reorder, numbers = _operators()._reorder_convolution_weight, self._numbers  # noqa: SLF001
        packed = self._packed(layer.weight, "oneDNN", lambda own: reorder(own, *numbers, list(input.shape)))
        convolve, given = _operators()._convolution_pointwise, (packed, layer.bias)  # noqa: SLF001
        if residual is None:
            found: Tensor = convolve(input, *given, *numbers, *ATTRIBUTES[code])
        elif code in (0, RELU):
            after: tuple[Any, ...] = ("relu" if code else None), [], None
            found = convolve.binary(input, residual, *given, *numbers, "add", 1.0, *after)
        else:
            found = convolve(input, *given, *numbers, *ATTRIBUTES[0])
            follow_at_once(found, NO_NORM, residual, code)
        return found

    def _packed(self, weight: Tensor, whose: str, pack: Callable[[Tensor], Tensor]) -> Tensor:
        """The weights, packed for the first input and again when they change; other sizes are computed with these."""
        key = weight._version, weight.data_ptr(), weight.dtype  # noqa: SLF001
        held = self._held.get(whose)
        if held is None or held[0] != key or held[1]() is not weight:
            self._held[whose] = held = key, ref(weight), pack(weight.detach())
        return held[2]
