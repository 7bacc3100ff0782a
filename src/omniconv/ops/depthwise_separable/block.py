# SPDX-License-Identifier: Apache-2.0
"""Layers of the depthwise separable convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from omniconv.core.activated import computed
from omniconv.core.follow import Activation, Norm, activation_of, check_residual, follow, norm_of
from omniconv.core.layer import ConvLayer, PlannedLayer, draw
from omniconv.core.numbers import boolean, integer
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from omniconv.ops.conv.layer import from_problem as conv_of
from omniconv.ops.conv.layer import pointwise_at_once

from .cost import parts, tensors
from .followed import followed
from .weights import renamed


class _DepthwiseSeparableConv(PlannedLayer):
    depthwise_weight: nn.Parameter
    pointwise_weight: nn.Parameter
    depthwise_bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        multiplier: int = 1,
        depthwise_bias: bool = False,
        mid_norm: Norm | None = None,
        mid_activation: Activation | None = None,
        norm: Norm | None = None,
        activation: Activation | None = None,
    ) -> None:
        problem = ConvProblem.of(
            "depthwise_separable",
            self.dim,
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            bias=bias,
            padding_mode=padding_mode,
            multiplier=integer("multiplier", multiplier, 1),
            depthwise_bias=int(boolean("depthwise_bias", depthwise_bias)),
        )
        super().__init__(problem, padding)
        for name, shape in list(tensors(problem).items())[1:]:
            parameter = None if shape is None else nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, parameter)
        self.mid_norm = norm_of("mid_norm", mid_norm, problem.in_channels * multiplier, device, dtype)
        self.mid_activation = activation_of("mid_activation", mid_activation)
        self.norm = norm_of("norm", norm, problem.out_channels, device, dtype)
        self.activation = activation_of("activation", activation)
        self.part_plans = tuple(Plan(part) for part in parts(problem))
        self._followed, self._recorded = followed(problem), pointwise_at_once(parts(problem)[1])
        self.reset_parameters()

    def seal(self) -> None:
        """Take it that nobody changes the weights past torch's count, so that packed ones need not be compared."""
        if self._followed is not None:
            self._followed.seal()

    @property
    def multiplier(self) -> int:
        """Depthwise filters per channel."""
        return self.problem.number("multiplier")

    def reset_parameters(self) -> None:
        """Draw the depthwise, then the pointwise weight and bias, each as torch draws those of a convolution."""
        draw(self.depthwise_weight, self.depthwise_bias)
        draw(self.pointwise_weight, self.bias)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None:
            check_residual(self.problem, input, residual)
        if self._followed is not None and (output := self._followed(self, input, residual)) is not None:
            return output
        first, last = (self.depthwise_weight, self.depthwise_bias), (self.pointwise_weight, self.bias)
        if self.mid_norm is None and self.mid_activation is None:
            output = self.plan(input, first[0], *last, first[1])
            return follow(output, self.norm, residual, self.activation)
        depthwise, pointwise = self.part_plans
        between = computed(depthwise, (input, *first), self.mid_norm, None, self.mid_activation)
        return computed(pointwise, (between, *last), self.norm, residual, self.activation, self._recorded)

    def to_dense(self) -> ConvLayer:
        """Return the one ordinary convolution that the two amount to; ``norm`` and ``activation`` are not part of it.

        Its weight is V[o,q]·U[q,k] summed over the filters q of a channel, and a copy: training one leaves the other.

        Raises:
            ValueError: a norm or an activation stands between the two.
        """
        for name in ("mid_norm", "mid_activation"):
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` (={getattr(self, name)}) stands between the two convolutions; use None.")
        bias = self.bias is not None or self.depthwise_bias is not None
        problem = replace(self.problem, family="conv", bias=bias, special=())
        layer = conv_of(problem, self.pointwise_weight.device, self.pointwise_weight.dtype)
        with torch.no_grad():
            wide = torch.promote_types(self.pointwise_weight.dtype, torch.float64)
            across = self.pointwise_weight.to(wide).flatten(1)
            grouped = across.unflatten(1, (self.in_channels, self.multiplier))
            taps = self.depthwise_weight.to(wide)[:, 0].unflatten(0, (self.in_channels, self.multiplier))
            layer.weight.copy_(torch.einsum("ocm,cm...->oc...", grouped, taps))
            if layer.bias is not None:
                total = across.new_zeros(self.out_channels)
                total = total if self.depthwise_bias is None else total + across @ self.depthwise_bias.to(wide)
                layer.bias.copy_(total if self.bias is None else total + self.bias.to(wide))
        return layer

    def extra_repr(self) -> str:
        marked = [f"multiplier={self.multiplier}"] if self.multiplier != 1 else []
        marked += ["depthwise_bias=True"] if self.depthwise_bias is not None else []
        return ", ".join([super().extra_repr(), *marked])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        dims = {name.removeprefix(prefix): t.dim() for name, t in state_dict.items() if name.startswith(prefix)}
        for old, new in renamed(dims, self.dim).items():
            state_dict[prefix + new] = state_dict.pop(prefix + old)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class DepthwiseSeparableConv1d(_DepthwiseSeparableConv):
    """Depthwise, then pointwise over a sequence. The formula and the arguments are :class:`DepthwiseSeparableConv2d`'s.

    Shape:
        input (n, c, i) or (c, i); output (n, o, p) or (o, p), p as :class:`Conv1d`; depthwise_weight (c·m, 1, k),
        pointwise_weight (o, c·m, 1).

    Raises:
        TypeError, ValueError: as :class:`DepthwiseSeparableConv2d`.

    Source:
        Kaiser, Gomez & Chollet, 2018; Kriman et al., QuartzNet, 2020.

    Example:
        >>> layer = DepthwiseSeparableConv1d(16, 32, 33, padding="same", norm=nn.BatchNorm1d, activation=nn.ReLU)
        >>> layer(torch.randn(2, 16, 100)).shape
        torch.Size([2, 32, 100])
    """

    dim = 1


class DepthwiseSeparableConv2d(_DepthwiseSeparableConv):
    """A depthwise convolution, then a pointwise one: space within each channel, then channels at each position.

    y[n,o,p] = b[o] + Σ_q V[o,q] (a[q] + Σ_k U[q,k] x[n, ⌊q/m⌋, s·p + d·k − pad]). P·C·m·(K + O) MACs, and P·C·K·O for
    the dense convolution: 1/O + 1/K of them at m = 1. The block of MobileNet and Xception. With nothing between the two
    it is a dense convolution whose kernel is of low rank (:meth:`to_dense`).

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, padding, dilation, padding_mode: of the depthwise part, as :class:`Conv2d`.
        bias: whether the pointwise part ends with a number per output channel, b. Keras's ``use_bias`` and timm's
            ``bias`` are this one; leave it out before a batch norm.
        multiplier: filters per channel, m: Keras's ``depth_multiplier``, timm's ``channel_multiplier``.
        depthwise_bias: whether the depthwise part has a bias of its own, a, as two torch layers in sequence have.
        mid_norm, norm: after the depthwise and after the pointwise part: a module, or what makes one from a number of
            channels, such as ``nn.BatchNorm2d`` or ``functools.partial(nn.GroupNorm, 4)``.
        mid_activation, activation: after each norm: a module, its class (``nn.ReLU6``), or a function of a tensor.

    ``forward`` takes a ``residual`` besides the input, of the output's shape, which is added before ``activation``. In
    inference on a CPU batch norms in ``eval`` and the activations ReLU, ReLU6, SiLU, GELU and hard swish are computed
    in one call with both convolutions; what stands between these stays in the cache.

    MobileNet has ``bias=False`` and a norm and an activation after each part; Xception and Keras have nothing between.
    ``load_state_dict`` also takes the entries of timm's ``SeparableConv2d`` and ``SeparableConvNormAct``, of two
    convolutions named ``depthwise`` and ``pointwise``, and of an ``nn.Sequential`` of the parts in their order.

    Shape:
        input (n, c, h, w) or (c, h, w); output as :class:`Conv2d`; depthwise_weight (c·m, 1, k, k), pointwise_weight
        (o, c·m, 1, 1), bias (o,), depthwise_bias (c·m,).

    Raises:
        TypeError, ValueError: as :class:`Conv2d`; and a norm or activation that is none of what is named above.

    Source:
        Sifre, 2014; Chollet, Xception, 2017; Howard et al., MobileNets, 2017.

    Example:
        >>> layer = DepthwiseSeparableConv2d(
        ...     16, 32, 3, stride=2, padding=1, bias=False,
        ...     mid_norm=nn.BatchNorm2d, mid_activation=nn.ReLU, norm=nn.BatchNorm2d, activation=nn.ReLU,
        ... )
        >>> layer(torch.randn(1, 16, 28, 28)).shape
        torch.Size([1, 32, 14, 14])
    """

    dim = 2


class DepthwiseSeparableConv3d(_DepthwiseSeparableConv):
    """Depthwise, then pointwise over a volume or a clip. The arguments are :class:`DepthwiseSeparableConv2d`'s.

    Shape:
        input (n, c, d, h, w) or (c, d, h, w); output as :class:`Conv3d`; depthwise_weight (c·m, 1, k, k, k),
        pointwise_weight (o, c·m, 1, 1, 1).

    Raises:
        TypeError, ValueError: as :class:`DepthwiseSeparableConv2d`.

    Source:
        Ye, Liu & Zhang, 2019.

    Example:
        >>> DepthwiseSeparableConv3d(4, 8, (1, 3, 3), padding=(0, 1, 1))(torch.randn(1, 4, 5, 9, 9)).shape
        torch.Size([1, 8, 5, 9, 9])
    """

    dim = 3
