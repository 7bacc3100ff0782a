# SPDX-License-Identifier: Apache-2.0
"""Layers of the pointwise convolution, with what usually follows one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from omniconv.core.activated import AtOnce, computed
from omniconv.core.check import TensorCheck
from omniconv.core.choose import broad_groups, choose
from omniconv.core.flat import Flat
from omniconv.core.follow import (
    NO_NORM,
    Activation,
    Norm,
    Packing,
    Part,
    Terms,
    activation_code,
    activation_of,
    check_residual,
    follow_at_once,
    hooked,
    norm_of,
    norm_terms,
    takes,
)
from omniconv.core.native import PLAIN, Native, watching
from omniconv.core.problem import ConvProblem

from . import FAMILY, is_unpadded_pointwise
from .base import Conv

CONVS = {2: torch.conv2d, 3: torch.conv3d}


def pointwise_at_once(problem: ConvProblem) -> AtOnce | None:
    """What computes a pointwise problem and what follows it, of weights that will not come again."""
    if not is_unpadded_pointwise(problem) or not choose(problem).kernel.compiled:
        return None
    return partial(_at_once, Flat(FAMILY.schema, ("zeros",)).pack(FAMILY.numbers(problem, ())))


def _at_once(
    flat: tuple[int, ...], input: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, code: int
) -> Tensor:
    call = torch.ops.omniconv.pointwise_followed.default._op  # noqa: SLF001
    return call(input, weight, None, bias, *NO_NORM, residual, (*flat, code))


def followed(problem: ConvProblem, sealed: bool = False) -> Followed | None:
    """What computes a pointwise problem and what follows it at once, where the compiled kernel takes it."""
    return Followed(problem, sealed) if is_unpadded_pointwise(problem) and choose(problem).kernel.compiled else None


class Followed:
    """The compiled kernel of one pointwise problem in eager inference."""

    def __init__(self, problem: ConvProblem, sealed: bool) -> None:
        self.problem, self.packing = problem, Packing(sealed=sealed)
        self._flat = Flat(FAMILY.schema, ("zeros",)).pack(FAMILY.numbers(problem, ()))
        self._leaves = tuple(getattr(torch, name) for name in broad_groups(problem))
        self._check = TensorCheck(FAMILY, problem)
        self._call: Callable[..., Tensor] = torch.ops.omniconv.pointwise_followed.default._op  # noqa: SLF001

    def __reduce__(self) -> tuple[Any, tuple[ConvProblem, bool]]:
        return followed, (self.problem, self.packing.sealed)

    def seal(self) -> None:
        """Take it that nobody changes the weights past torch's count, and look at none of them."""
        self.packing = Packing(sealed=True)

    def __call__(
        self,
        input: Tensor,
        own: Tensor,
        bias: Tensor | None,
        norm: nn.Module | None,
        residual: Tensor | None,
        activation: Part,
    ) -> Tensor | None:
        """The result, or None where the parts must be called one by one; ``own`` is a parameter of (o, c, …)."""
        if is_dynamo_compiling() or type(input) not in PLAIN or input.dim() != self.problem.dim + 2:
            return None
        terms, code = norm_terms(norm, self.problem.dim), activation_code(activation)
        if terms is None or code is None or hooked((norm, activation)):
            return None
        if not takes((input, own, bias, residual, *terms[0])):
            return None
        weight = own if own.dim() == input.dim() else own.detach().unsqueeze(2)
        try:
            if not Native.takes(input, self._leaves):
                return self._left(input, weight, bias, terms, residual, code)
            packed = self.packing.of(input, own, weight)
            return self._call(input, weight, packed, bias, *terms, residual, (*self._flat, code))
        except (RuntimeError, TypeError):
            self._check((input, weight, bias))  # says what is wrong better than a kernel can
            if residual is not None:
                check_residual(self.problem, input, residual)
            raise

    def _left(
        self, input: Tensor, weight: Tensor, bias: Tensor | None, terms: Terms, residual: Tensor | None, code: int
    ) -> Tensor | None:
        """The same where ATen multiplies faster, without the way of a plan, whose code large tensors drive out."""
        if self.problem.dim == 1 or watching():
            return None
        output = CONVS[self.problem.dim](input, weight, bias, self.problem.stride)
        follow_at_once(output, terms, residual, code)
        return output


class _PointwiseConv(Conv):
    """A kernel of one tap: a linear map of the channels, the same at every position.

    y[n,o,p] = b[o] + Σ_c W[o,c] x[n, c, s·p]. It mixes all channels of one position and sees no neighbour. The same
    as ``Conv{1,2,3}d(c, o, 1)``, with its state dict, to which ``norm`` adds its own.

    Args:
        in_channels, out_channels: C and O.
        stride: step between outputs; the positions between are not read.
        groups: G; channels meet only inside their group.
        bias: whether a number per output channel is added; leave it out before a batch norm.
        norm: after the convolution: a module, or what makes one from a number of channels, such as ``nn.BatchNorm2d``.
        activation: at the end: a module, its class (``nn.ReLU6``), or a function of a tensor.

    ``forward`` takes a ``residual`` besides the input, of the output's shape, which is added before ``activation``. In
    inference on a CPU a batch norm in ``eval`` and the activations ReLU, ReLU6, SiLU, GELU and hard swish are computed
    with the convolution, in one call; weights that come again unchanged stay packed, a copy of them.

    Shape:
        input (n, c, *spatial) or (c, *spatial); output (n, o, *⌈spatial/s⌉); weight (o, c/g, 1, …).

    Raises:
        TypeError, ValueError: as :class:`Conv2d`; a norm or activation that is none of what is named above, or a
            ``residual`` of another shape than the output's.

    Source:
        Lin et al., Network In Network, 2014.

    Example:
        >>> layer = PointwiseConv2d(64, 16, bias=False, norm=nn.BatchNorm2d, activation=nn.ReLU)
        >>> layer(torch.randn(1, 64, 7, 7), torch.randn(1, 16, 7, 7)).shape
        torch.Size([1, 16, 7, 7])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        norm: Norm | None = None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, 1, stride, 0, 1, groups, bias, "zeros", device, dtype)
        self.norm = norm_of("norm", norm, self.out_channels, device, dtype)
        self.activation = activation_of("activation", activation)
        self._followed, self._recorded = followed(self.problem), pointwise_at_once(self.problem)

    def seal(self) -> None:
        """Take it that nobody changes the weights past torch's count, so that packed ones need not be compared."""
        if self._followed is not None:
            self._followed.seal()

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is None and self.norm is None and self.activation is None:
            return super().forward(input)
        if self._followed is not None:
            output = self._followed(input, self.weight, self.bias, self.norm, residual, self.activation)
            if output is not None:
                return output
        if residual is not None:
            check_residual(self.problem, input, residual)
        tensors = input, self.weight, self.bias
        return computed(self.plan, tensors, self.norm, residual, self.activation, self._recorded)


class PointwiseConv1d(_PointwiseConv):  # noqa: D101  # as its base
    __doc__ = _PointwiseConv.__doc__
    dim = 1


class PointwiseConv2d(_PointwiseConv):  # noqa: D101  # as its base
    __doc__ = _PointwiseConv.__doc__
    dim = 2


class PointwiseConv3d(_PointwiseConv):  # noqa: D101  # as its base
    __doc__ = _PointwiseConv.__doc__
    dim = 3
