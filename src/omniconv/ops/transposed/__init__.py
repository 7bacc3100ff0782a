# SPDX-License-Identifier: Apache-2.0
"""The transposed convolution: the ordinary one run the other way, from its outputs to its inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from omniconv.core.choose import broad_groups, wide_groups
from omniconv.core.family import Family, Kernel, Position, Setting
from omniconv.core.problem import ConvProblem

from .benchmarks import BENCHMARKS
from .cases import CASES
from .cost import cost, tensors
from .outside import OUTSIDE


def _at(position: Position) -> ConvProblem:
    return ConvProblem.of(
        "transposed",
        position.dim,
        position.in_channels,
        position.out_channels,
        position.kernel_size,
        position.stride,
        "same" if position.padding is None else position.padding,
        position.dilation,
        bias=position.bias,
        transposed=True,
        output_padding=position.output_padding,
        in_size=position.in_size,
        batch=position.batch,
    )


def _nearest(position: Position) -> tuple[Position, str] | None:
    """At a stride the position shrinks its input and a transposed layer widens it: shown from the small side back."""
    if all(s == 1 for s in position.stride):
        return None
    down = ConvProblem.of(
        "transposed",
        position.dim,
        position.in_channels,
        position.out_channels,
        position.kernel_size,
        position.stride,
        position.keeping(position.dilation),
        position.dilation,
        in_size=position.in_size,
    )
    back = replace(down, transposed=True, padding=down.pads(), output_padding=(0,) * down.dim)
    missing = tuple(
        whole - reached for whole, reached in zip(position.in_size, back.out_size_of(down.out_size), strict=True)
    )
    sizes = ("×".join(map(str, size)) for size in (down.out_size, position.in_size))
    note = f"upsamples where the others downsample; shown the other way, {' → '.join(sizes)}"
    return replace(position, in_size=down.out_size, padding=down.pads(), output_padding=missing), note


def _direct_refuses(problem: ConvProblem) -> str | None:
    for axis, ((before, after), appended) in enumerate(zip(problem.pads(), problem.appended, strict=True)):
        if appended + before < after:
            return f"axis {axis} is cropped by {before} before and {after} after, and ATen crops both sides alike."
        most = max(problem.stride[axis], problem.dilation[axis]) - 1
        if appended + before - after > most:
            return (
                f"axis {axis} is cropped by {before} before and {after} after, and ATen appends at most {most} to make "
                "up for it."
            )
    return None


def _channels_last_refuses(problem: ConvProblem) -> str | None:
    if problem.dim != 2 or problem.groups != 1 or problem.stride != (2, 2):
        return "it is for two axes, strides of 2 and every channel meeting every other."
    # A Xeon of the fourth generation, two threads: 0.98 to 1.17 times as fast with up to 128 channels, training 0.94 to
    # 1.13; with 256 channels 0.96 to 1.02, training 0.84 to 0.89.
    if problem.in_channels > 128:
        return "with more than 128 channels in the copies cost more than they save."
    return _direct_refuses(problem)


def _check(problem: ConvProblem) -> None:
    if not problem.transposed:
        raise ValueError("`transposed` (=False) must be True in this family; write `t` in the problem string.")


def numbers(problem: ConvProblem, in_size: tuple[int, ...]) -> tuple[Any, ...]:
    """Schema arguments after the tensors: stride, crop flat (before, after per axis), appended, dilation, groups."""
    return problem.stride, problem.flat_pads(), problem.appended, problem.dilation, problem.groups


def _overrideable(stride: Any, crop: Any, appended: Any, dilation: Any, groups: Any) -> tuple[Any, ...] | None:
    if crop[::2] != crop[1::2] or any(more >= max(s, d) for more, s, d in zip(appended, stride, dilation, strict=True)):
        return None
    return stride, crop[::2], dilation, True, appended, groups


FAMILY = Family(
    name="transposed",
    formula="y[n, o, s·i + d·k − pad] += Σ_c W[c,o,k] x[n,c,i],  then + b[o],  o in the group of c",
    source="Zeiler et al. 2010; Long, Shelhamer & Darrell 2015; checkerboard: Odena, Dumoulin & Olah 2016",
    schema="(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] output_padding, "
    "SymInt[] dilation, SymInt groups) -> Tensor",
    tensors=tensors,
    numbers=numbers,
    settings=(
        Setting(
            "transposed",
            "전치 합성곱",
            "every input scatters a weighted kernel: the transpose of a convolution's matrix, not its inverse",
            _at,
            lambda p: True,
            _nearest,
            aliases=("deconvolution", "fractionally strided", "up-convolution"),
            equals="the gradient of standard with respect to its input; at stride 1, standard with the kernel flipped",
        ),
    ),
    kernels=(
        Kernel(
            "native",
            "depthwise and grouped, on kernels of our own.",
            module="cpu",
            refuse=wide_groups,
            overrideable=_overrideable,
            leaves=broad_groups,
        ),
        Kernel(
            "channels_last",
            "ATen's transposed convolution of a copy in channels last, where float32 inputs of 65,536 elements or more "
            "lie in order.",
            refuse=_channels_last_refuses,
            bind="channels_last_bound",
        ),
        Kernel("direct", "ATen's transposed convolution as it lies.", refuse=_direct_refuses, bind="direct_bound"),
        Kernel("cropped", "ATen's transposed convolution, then the rest of the crop cut away."),
    ),
    cost=cost,
    cases=CASES,
    benchmarks=BENCHMARKS,
    layers=("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
    functions=("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "overlap_map", "overlap_verdict"),
    check=_check,
    outside=OUTSIDE,
)
