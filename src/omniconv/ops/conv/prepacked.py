# SPDX-License-Identifier: Apache-2.0
"""A convolution of all channels in eager inference: oneDNN's, with what follows, of weights that stay as it wants them.

ATen's convolution reorders its weights at each call: a fifth of ResNet-50's time for one picture.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from omniconv.core.follow import (
    NO_NORM,
    activation_code,
    check_residual,
    follow_at_once,
    follows_at_once,
    hooked,
    takes,
)
from omniconv.core.native import PLAIN, watching
from omniconv.core.problem import ConvProblem

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
    return dtype is not torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def why_not_prepacked(problem: ConvProblem) -> str | None:
    """Why oneDNN's weights are not kept for a problem, in one sentence."""
    if _operators() is None:
        return "this torch has no oneDNN"
    if problem.dim == 1:
        return "oneDNN's operators take images and volumes"
    if problem.padding_mode != "zeros" or not problem.fixed_pads:
        return "oneDNN pads with zeros, by numbers that no input changes"
    return None


class PrepackedConv(FollowedConv):
    """A convolution that oneDNN computes with an activation and an addend, its weights packed at the first call."""

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
        self._compiled = choose(problem).kernel.compiled  # which leaves some inputs to oneDNN
        self._held: tuple[Any, ref[Tensor], Tensor] | None = None  # of which weights, a reference to them, and packed

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": None}  # packed weights are neither copied nor pickled

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        output = self._at_once(input, residual)
        if output is not None:
            return output
        layer = self.layer
        return computed(layer.plan, (input, layer.weight, layer.bias), None, residual, self.activation)

    def _at_once(self, input: Tensor, residual: Tensor | None) -> Tensor | None:
        layer: Any = self.layer
        if is_dynamo_compiling() or type(input) not in PLAIN or input.dim() != layer.problem.dim + 2 or watching():
            return None
        code = activation_code(self.activation)
        if code is None or hooked((layer, self.activation)):
            return None
        if not takes((input, layer.weight, layer.bias, residual)) or input.numel() == 0 or layer.weight.is_inference():
            return None
        if not _takes(input.dtype) or (self._compiled and layer.plan.native(input)[0] is not None):
            return None
        if residual is not None and code not in (0, RELU) and not follows_at_once():
            return None
        if residual is not None:
            check_residual(layer.problem, input, residual)
        if self._pads is not None:
            input = F.pad(input, self._pads)
        convolve, given = _operators()._convolution_pointwise, (self._packed(input, layer.weight), layer.bias)  # noqa: SLF001
        if residual is None:
            found: Tensor = convolve(input, *given, *self._numbers, *ATTRIBUTES[code])
        elif code in (0, RELU):
            after: tuple[Any, ...] = ("relu" if code else None), [], None
            found = convolve.binary(input, residual, *given, *self._numbers, "add", 1.0, *after)
        else:
            found = convolve(input, *given, *self._numbers, *ATTRIBUTES[0])
            follow_at_once(found, NO_NORM, residual, code)
        return found

    def _packed(self, input: Tensor, weight: Tensor) -> Tensor:
        """The weights, packed for the first input and again when they change; other sizes are computed with these."""
        key = weight._version, weight.data_ptr(), weight.dtype  # noqa: SLF001
        held = self._held
        if held is None or held[0] != key or held[1]() is not weight:
            packed = _operators()._reorder_convolution_weight(weight.detach(), *self._numbers, list(input.shape))  # noqa: SLF001
            self._held = held = key, ref(weight), packed
        return held[2]
