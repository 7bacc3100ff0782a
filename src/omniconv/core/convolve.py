# SPDX-License-Identifier: Apache-2.0
"""ATen's convolutions for any number of axes, kept from the one call that never returns.

oneDNN 3.12, which torch 2.13 carries, generates its float16 depthwise kernel without end on processors with
AVX512-FP16 when the last axis has 15 taps or more. Such a call is computed in float32 and rounded once instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .native import transforming
from .problem import ConvProblem

Bound = Callable[[Tensor, Tensor, Tensor | None], Tensor]
_GATHER = (F.conv1d, F.conv2d, F.conv3d)
_SCATTER = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_ENDLESS_TAPS = 15


def convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int] | int = 1,
    padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1,
    groups: int = 1,
) -> Tensor:
    """ATen's convolution over the axes of ``weight``; zeros are padded alike on both sides."""
    function = _GATHER[weight.dim() - 3]
    if not _never_returns(input, weight, groups):
        return function(input, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        wide = function(*_float32(input, weight, bias), stride, padding, dilation, groups)
    return wide.half()


def bound(problem: ConvProblem, **numbers: Any) -> Bound | None:
    """``convolve`` (or ``convolve_transposed``) with these numbers and no Python left in the call.

    None where such a call may never return.
    """
    if problem.groups > 1 and problem.groups == problem.in_channels and problem.kernel_size[-1] >= _ENDLESS_TAPS:
        return None
    return partial((_SCATTER if problem.transposed else _GATHER)[problem.dim - 1], **numbers)


def gains_by_copies(input: Tensor) -> bool:
    """Whether copies to channels last and back may pay: in eager code, for float32 in order on a CPU."""
    if torch.compiler.is_compiling() or transforming() or torch.is_autocast_enabled("cpu"):
        return False
    return input.is_cpu and input.dtype == torch.float32 and input.is_contiguous()


def copying(call: Bound, pays: Callable[[Tensor], bool]) -> Bound:
    """A bound call that copies its input to channels last and its output back, where that ``pays``."""

    def copied(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (pays(input) and gains_by_copies(input)):
            return call(input, weight, bias)
        return call(input.contiguous(memory_format=torch.channels_last), weight, bias).contiguous()

    return copied


def convolve_transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int] | int,
    padding: Sequence[int] | int,
    output_padding: Sequence[int] | int,
    dilation: Sequence[int] | int,
    groups: int,
) -> Tensor:
    """ATen's transposed convolution over the axes of ``weight``, whose gradient is the ordinary one."""
    function = _SCATTER[weight.dim() - 3]
    if not _never_returns(input, weight, groups):
        return function(input, weight, bias, stride, padding, output_padding, groups, dilation)
    with torch.autocast("cpu", enabled=False):
        wide = function(*_float32(input, weight, bias), stride, padding, output_padding, groups, dilation)
    return wide.half()


def _never_returns(input: Tensor, weight: Tensor, groups: int) -> bool:
    if groups == 1 or weight.shape[-1] < _ENDLESS_TAPS or groups != input.shape[1] or input.device.type != "cpu":
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
    return dtype == torch.float16


def _float32(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    return input.float(), weight.float(), None if bias is None else bias.float()
