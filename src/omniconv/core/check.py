# SPDX-License-Identifier: Apache-2.0
"""Whether tensors fit a problem: shapes, dtypes and devices, before anything is computed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .family import Family, Shape
from .problem import ConvProblem

_LOWERED = {torch.float32, torch.float16, torch.bfloat16}  # what autocast brings to one type


def weight_of(name: str, weight: object, dims: int, layout: str) -> tuple[int, ...]:
    """The shape of ``weight``, from which a function reads its channels and taps.

    Raises:
        TypeError: not a tensor.
        ValueError: not ``dims`` dimensions.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"`{name}` (={type(weight).__name__}) must be a torch.Tensor.")
    if weight.dim() != dims:
        raise ValueError(f"`{name}` shape (={tuple(weight.shape)}) must have {dims} dimensions, {layout}.")
    return tuple(weight.shape)


def known(shape: Shape | None, dim: int, batched: bool) -> Shape | list[int] | None:
    """A shape, or (a list) those sizes behind the batch of a tensor that do not follow the input's."""
    return list(shape[1:-dim]) if shape and batched else shape


def differs(tensor: Tensor, sizes: object) -> bool:
    """Whether a tensor whose shape is not ``sizes`` has not these known ones either."""
    return type(sizes) is not list or list(tensor.shape[1 : 1 + len(sizes)]) != sizes


class TensorCheck:
    """``check_tensors`` for one problem; tensors like those of an earlier call were checked then: 10 µs saved."""

    def __init__(self, family: Family, problem: ConvProblem) -> None:
        self.family = family
        self.problem = problem
        self.accepted: set[Any] = set()

    def __call__(self, tensors: tuple[Tensor | None, ...]) -> None:
        """Raise what ``check_tensors`` raises."""
        if torch.compiler.is_compiling():
            return check_tensors(self.family, self.problem, tensors)
        try:
            likeness = tuple([None if t is None else (t.shape, t.dtype, t.device) for t in tensors])
            seen = (likeness, torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda"))
            if seen in self.accepted:
                return None
        except (AttributeError, TypeError):  # not a tensor, or traced sizes, which have no hash
            return check_tensors(self.family, self.problem, tensors)
        check_tensors(self.family, self.problem, tensors)
        if len(self.accepted) >= 256:
            self.accepted.clear()
        self.accepted.add(seen)
        return None


def check_tensors(family: Family, problem: ConvProblem, tensors: tuple[Tensor | None, ...]) -> None:
    """Raise unless every tensor has the shape, type and device that the problem asks for.

    Raises:
        TypeError: not a tensor, not floating point, or dtypes that differ outside autocast.
        ValueError: a shape or device that does not fit; the text names the one that would.
    """
    names = family.tensor_names
    input: Any = tensors[0]
    if input.dim() != problem.dim + 2:
        raise ValueError(
            f"`{names[0]}` has {input.dim()} dimensions and must have {problem.dim + 2} (n, c, {problem.dim} axes) or "
            f"{problem.dim + 1} without a batch; its shape is {tuple(input.shape)}."
        )
    if input.shape[1] != problem.in_channels:
        grouped = f", {problem.groups} groups of {problem.in_channels // problem.groups}" if problem.groups > 1 else ""
        raise ValueError(
            f"`{names[0]}` channels (={input.shape[1]}) must be `in_channels` (={problem.in_channels}{grouped}); its "
            f"shape is {tuple(input.shape)}, read as (n, c, *spatial)."
        )
    device = input.device.type
    mixed = device != "meta" and torch.is_autocast_enabled(device)  # which raises for a device without autocast
    expected = family.tensors(problem.at(tuple(input.shape[2:]), input.shape[0]))
    for name, tensor in zip(names, tensors, strict=True):
        shape = expected[name]
        if tensor is None:
            if shape is not None:
                raise TypeError(f"`{name}` (=None) must be a torch.Tensor of shape {shape}.")
            continue
        _check_tensor(name, tensor, shape, input, mixed, family.real_only)


def _check_tensor(name: str, tensor: Tensor, shape: Shape | None, input: Tensor, mixed: bool, real_only: bool) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"`{name}` (={type(tensor).__name__}) must be a torch.Tensor.")
    if shape is None:
        raise ValueError(f"`{name}` (of shape {tuple(tensor.shape)}) has no place in this convolution; use None.")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"`{name}` shape (={tuple(tensor.shape)}) must be {shape}.")
    if not (tensor.is_floating_point() or tensor.is_complex()):
        raise TypeError(f"`{name}` dtype (={tensor.dtype}) must be a floating-point type; use {name}.float().")
    if real_only and tensor.is_complex():
        raise TypeError(f"`{name}` dtype (={tensor.dtype}) must be real: this family has no complex formula.")
    if tensor.dtype != input.dtype and not (mixed and {tensor.dtype, input.dtype} <= _LOWERED):
        raise TypeError(f"`{name}` dtype (={tensor.dtype}) must be that of the input (={input.dtype}); use .to().")
    if tensor.device != input.device:
        raise ValueError(f"`{name}` device (={tensor.device}) must be that of the input (={input.device}); use .to().")
