# SPDX-License-Identifier: Apache-2.0
"""How often a transposed convolution writes each output: the pattern behind checkerboard artefacts."""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from torch import Tensor, nn

from omniconv.core.numbers import per_axis
from omniconv.core.problem import ConvProblem
from omniconv.core.taps import axis_meetings


def overlap_map(layer: nn.Module | ConvProblem, in_size: int | tuple[int, ...] | None = None) -> Tensor:
    """Count the (input, tap) pairs that reach each output position of a transposed convolution.

    What an input of ones under a kernel of ones gives, for one pair of channels. A pattern inside, away from the
    border, is what checkerboard artefacts are made of; :func:`overlap_verdict` says in a sentence whether there is one.

    Args:
        layer: a transposed layer, of omniconv or of torch, or its problem.
        in_size: input positions, one number or one per axis; may be left out for a problem that knows them.

    Returns:
        Whole numbers, one per output position.

    Raises:
        TypeError: ``layer`` is neither a transposed layer nor a problem.
        ValueError: a problem that is not transposed, no ``in_size``, or one that leaves no output.

    Example:
        >>> overlap_map(ConvTranspose1d(1, 1, 3, stride=2), in_size=4)
        tensor([1, 1, 2, 1, 2, 1, 2, 1, 1])
        >>> overlap_map(ConvTranspose1d(1, 1, 4, stride=2), in_size=4)
        tensor([1, 1, 2, 2, 2, 2, 2, 2, 1, 1])
    """
    problem = _transposed(layer)
    if in_size is None and problem.in_size is None:
        raise ValueError("`in_size` (=None) must be known for a map; give the input positions, as `in_size=8`.")
    if in_size is not None:
        problem = problem.at(per_axis("in_size", in_size, problem.dim, 1))
    counts = torch.ones((), dtype=torch.int64)
    for axis, out in enumerate(problem.out_size):
        kept = torch.tensor([m.output for m in axis_meetings(problem, axis) if m.kept], dtype=torch.int64)
        counts = counts.unsqueeze(-1) * torch.bincount(kept, minlength=out)
    return counts


def overlap_verdict(layer: nn.Module | ConvProblem) -> str:
    """Say in one line whether every output inside is reached by equally many taps, and if not what would be even.

    Args:
        layer: a transposed layer, of omniconv or of torch, or its problem.

    Returns:
        A line that begins with ``even`` or ``uneven``.

    Raises:
        TypeError: ``layer`` is neither a transposed layer nor a problem.
        ValueError: a problem that is not transposed.

    Example:
        >>> overlap_verdict(ConvTranspose2d(8, 8, 4, stride=2))
        'even: every output inside is reached by 4 of 16 taps.'
        >>> overlap_verdict(ConvTranspose1d(8, 8, 3, stride=2))
        'uneven: 1 to 2 taps on axis 0, since `kernel_size` (=3) is no multiple of `stride` (=2); use 2 or 4.'
    """
    problem = _transposed(layer)
    reached, whole, faults = 1, 1, []
    for axis, kernel in enumerate(problem.kernel_size):
        counts = _by_phase(problem, axis)
        reached, whole = reached * counts[0], whole * kernel
        if len(set(counts)) > 1:
            faults.append(_fault(problem, axis, counts))
    if faults:
        return f"uneven: {'; '.join(faults)}."
    return f"even: every output inside is reached by {reached} of {whole} taps."


def _by_phase(problem: ConvProblem, axis: int) -> list[int]:
    """Taps that reach an output, for each of the s places that an output can have between two inputs."""
    stride, dilation = problem.stride[axis], problem.dilation[axis]
    places = [dilation * k % stride for k in range(problem.kernel_size[axis])]
    return [places.count(phase) for phase in range(stride)]


def _fault(problem: ConvProblem, axis: int, counts: list[int]) -> str:
    kernel, stride, dilation = problem.kernel_size[axis], problem.stride[axis], problem.dilation[axis]
    reasons = []
    if kernel % stride:
        below, above = kernel // stride * stride, (kernel // stride + 1) * stride
        use = f"{below} or {above}" if below else f"{above}"
        reasons.append(f"`kernel_size` (={kernel}) is no multiple of `stride` (={stride}); use {use}")
    if gcd(dilation, stride) > 1:
        reasons.append(f"`dilation` (={dilation}) shares a factor with `stride` (={stride}); use 1")
    return f"{min(counts)} to {max(counts)} taps on axis {axis}, since {', and '.join(reasons)}"


def _transposed(layer: nn.Module | ConvProblem) -> ConvProblem:
    problem: Any = layer if isinstance(layer, ConvProblem) else getattr(layer, "problem", None)
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        problem = ConvProblem.of(
            "transposed",
            len(layer.kernel_size),
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            transposed=True,
            output_padding=layer.output_padding,
        )
    if not isinstance(problem, ConvProblem):
        raise TypeError(f"`layer` (={type(layer).__name__}) must be a transposed convolution or its problem.")
    if not problem.transposed:
        raise ValueError(
            f"`layer` (={problem}) must be a transposed convolution; only that writes an output many times."
        )
    return problem
