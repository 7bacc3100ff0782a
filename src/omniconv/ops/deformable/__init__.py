# SPDX-License-Identifier: Apache-2.0
"""The deformable convolution: every tap at every position may sit somewhere else, between positions too."""

from __future__ import annotations

from typing import Any

from omniconv.core.choose import needs_zeros
from omniconv.core.family import Family, Kernel, Position, Setting
from omniconv.core.numbers import integer, must_divide
from omniconv.core.problem import ConvProblem

from .benchmarks import BENCHMARKS
from .cases import CASES
from .cost import cost, tensors
from .outside import OUTSIDE


def _at(position: Position) -> ConvProblem:
    return ConvProblem.of(
        "deformable",
        position.dim,
        position.in_channels,
        position.out_channels,
        position.kernel_size,
        position.stride,
        position.keeping(position.dilation),
        position.dilation,
        bias=position.bias,
        in_size=position.in_size,
        batch=position.batch,
        head=1,
        mask=0,
        offset_groups=1,
    )


def _check(problem: ConvProblem) -> None:
    if problem.transposed:
        raise ValueError("`transposed` (=True) must be False for a deformable convolution; use False.")
    names = tuple(name for name, _ in problem.special)
    if names != ("head", "mask", "offset_groups"):
        raise ValueError(
            f"`special` (={problem.special}) must hold head, mask and offset_groups; use head=0, mask=0 and "
            "offset_groups=1."
        )
    for name in ("head", "mask"):
        if problem[name] not in (0, 1):
            raise ValueError(f"`{name}` (={problem[name]!r}) must be 0 or 1 in a problem; use 0 or 1.")
    shared = integer("offset_groups", problem["offset_groups"], 1)
    must_divide("offset_groups", shared, "in_channels", problem.in_channels)


def _unbounded(problem: ConvProblem) -> str:
    return "the offsets move each tap as far as the data say; this is the field of the taps at rest"


def numbers(problem: ConvProblem, in_size: tuple[int, ...]) -> tuple[Any, ...]:
    """Schema arguments after the tensors: stride, padding flat (before, after per axis), dilation, groups, mode."""
    groups = problem.groups, problem.number("offset_groups")
    return problem.stride, problem.flat_pads(in_size), problem.dilation, *groups, problem.padding_mode


FAMILY = Family(
    name="deformable",
    formula="y[n,o,p] = b[o] + Σ_c Σ_k W[o,c,k] m[n,k,p] x[n, c, s·p + d·k − pad + Δ[n,k,p]],  Δ, m by offset group",
    source="Dai et al. 2017; with a mask: Zhu et al. 2019",
    schema="(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, SymInt[] stride, "
    "SymInt[] padding, SymInt[] dilation, SymInt groups, SymInt offset_groups, str padding_mode) -> Tensor",
    tensors=tensors,
    numbers=numbers,
    settings=(
        Setting(
            "deformable",
            "변형 가능 합성곱",
            "each tap is moved by an offset learned from the data",
            _at,
            lambda p: True,
            aliases=("DCN", "DCNv2"),
            equals="standard, when every offset is 0 and every mask 1",
        ),
    ),
    kernels=(
        Kernel(
            "native",
            "sampled and multiplied stretch by stretch, no columns in memory.",
            module="cpu",
            refuse=needs_zeros,
            exact=("offset", "mask"),
        ),
        Kernel("gathered", "rows of channels gathered around each position, one ATen product a tap."),
    ),
    cost=cost,
    cases=CASES,
    benchmarks=BENCHMARKS,
    layers=(
        "DeformConv1d",
        "DeformConv2d",
        "DeformConv3d",
        "DeformableConv1d",
        "DeformableConv2d",
        "DeformableConv3d",
    ),
    real_only=True,
    functions=("deform_conv1d", "deform_conv2d", "deform_conv3d"),
    batched=("input", "offset", "mask"),
    unbounded=_unbounded,
    check=_check,
    outside=OUTSIDE,
)
