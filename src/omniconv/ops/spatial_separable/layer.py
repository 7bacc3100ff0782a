# SPDX-License-Identifier: Apache-2.0
"""Layers and functions of the spatially separable convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from omniconv.core.check import weight_of
from omniconv.core.layer import ConvLayer, PlannedLayer, draw
from omniconv.core.numbers import boolean, integer
from omniconv.core.planned import planned
from omniconv.core.problem import ConvProblem
from omniconv.ops.conv.layer import from_problem as conv_of

from .cost import WEIGHTS, tensors
from .factoring import Factoring, factor
from .reference import composed

if TYPE_CHECKING:
    from typing_extensions import Self


class _SpatialSeparableConv(PlannedLayer):
    """The two classes differ in the number of axes alone.

    Attributes:
        factoring: what :meth:`from_kernel` did, or None for a layer that was not made from a kernel.
    """

    depth_weight: nn.Parameter | None
    column_weight: nn.Parameter
    row_weight: nn.Parameter

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        mid_channels: int | None = None,
        depthwise: bool = False,
    ) -> None:
        if boolean("depthwise", depthwise):
            channels = integer("in_channels", in_channels, 1)
            if groups not in (1, channels):
                raise ValueError(
                    f"`groups` (={groups}) must be `in_channels` (={channels}) in a depthwise layer; leave it out."
                )
            groups = channels
        outer = (integer("in_channels", in_channels, 1), integer("out_channels", out_channels, 1))
        problem = ConvProblem.of(
            "spatial_separable",
            self.dim,
            *outer,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias=bias,
            padding_mode=padding_mode,
            mid=min(outer) if mid_channels is None else integer("mid_channels", mid_channels, 1),
        )
        super().__init__(problem, padding)
        self.mid_channels = problem.number("mid")
        self.factoring: Factoring | None = None
        for name, shape in list(tensors(problem).items())[1:]:
            parameter = None if shape is None else nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each weight, and last the bias, as torch draws those of a convolution in the place of the pass."""
        weights = self._weights()
        for weight in weights[:-1]:
            draw(weight, None)
        draw(weights[-1], self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return self.plan(input, self.depth_weight, self.column_weight, self.row_weight, self.bias)

    def to_dense(self) -> ConvLayer:
        """Return the ordinary convolution with the same outputs, whose kernel is the sum of the products.

        Its weight is a copy: training one leaves the other as it is.
        """
        layer = conv_of(replace(self.problem, family="conv", special=()), self.row_weight.device, self.row_weight.dtype)
        with torch.no_grad():
            wide = torch.promote_types(self.row_weight.dtype, torch.float64)
            dense = composed([weight.to(wide) for weight in self._weights()], self.groups)
            layer.weight.copy_(dense.flatten(0, 1))
            if layer.bias is not None and self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    @classmethod
    def from_kernel(
        cls,
        kernel: Any,
        rank: int | None = None,
        tolerance: float | None = None,
        *,
        stride: int | tuple[int, ...] = 1,
        padding: Any = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: Tensor | None = None,
        padding_mode: str = "zeros",
    ) -> Self:
        """Return the layer that computes a given kernel as a sum of separable products.

        ``layer.factoring`` says with how many products and what relative error.

        Args:
            kernel: (*k), applied to each of ``groups`` channels, or (o, c/g, *k), the weight of a convolution.
            rank: products summed in each group, which are the channels between two passes. None: the kernel must be
                separable, each of its slices an outer product, and the layer gets the channels that hold them all.
            tolerance: the largest relative error ‖kernel − sum‖/‖kernel‖ to accept. With ``rank`` None the kernel need
                not be separable, and the least rank is taken whose singular values promise that error.
            stride, padding, dilation, groups, padding_mode: as the layer's.
            bias: (o,) or None.

        A slice that is exactly an outer product is factored exactly, to the last bit. Otherwise the factors come from
        singular value decompositions in float64: with two axes no sum of ``rank`` products is closer; with three they
        are taken pass by pass, within √2 of the closest (a tensor train, whose middle pass mixes the channels between).

        Raises:
            TypeError: a kernel that is not numbers, a bias that is no tensor, a tolerance that is no number.
            ValueError: a kernel of another number of axes, one that is not separable, or not to ``tolerance`` at
                ``rank``; the text names its numerical rank.
        """
        weight = _kernel(kernel, cls.dim, integer("groups", groups, 1))
        if rank is not None:
            integer("rank", rank, 1)
        if weight.shape[0] % groups:
            raise ValueError(f"`groups` (={groups}) must divide the {weight.shape[0]} filters of `kernel`; use 1.")
        if bias is not None and not isinstance(bias, Tensor):
            raise TypeError(f"`bias` (={type(bias).__name__}) must be a torch.Tensor or None.")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"`bias` shape (={tuple(bias.shape)}) must be {tuple(weight.shape[:1])}.")
        if tolerance is not None and (isinstance(tolerance, bool) or not isinstance(tolerance, int | float)):
            raise TypeError(f"`tolerance` (={tolerance!r}) must be a number; use a relative error such as 0.01.")
        if tolerance is not None and not tolerance >= 0:
            raise ValueError(f"`tolerance` (={tolerance}) must be at least 0; use a relative error such as 0.01.")
        weights, factoring = factor(weight, groups, rank, tolerance)
        layer = cls(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride,
            padding,
            dilation,
            groups,
            bias is not None,
            padding_mode,
            weight.device,
            weight.dtype,
            mid_channels=factoring.rank * groups,
        )
        with torch.no_grad():
            for parameter, value in zip(layer._weights(), weights, strict=True):
                parameter.copy_(value)
            if bias is not None and layer.bias is not None:
                layer.bias.copy_(bias)
        layer.factoring = factoring
        return layer

    def extra_repr(self) -> str:
        made = "" if self.factoring is None else f", from_kernel: {self.factoring}"
        return f"{super().extra_repr()}, mid_channels={self.mid_channels}{made}"

    def _weights(self) -> list[nn.Parameter]:
        found = [getattr(self, name) for name in WEIGHTS]
        return [weight for weight in found if weight is not None]


def _kernel(kernel: Any, dim: int, groups: int) -> Tensor:
    """``kernel`` as the floating-point weight of an ordinary convolution."""
    try:
        weight = torch.as_tensor(kernel).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`kernel` (={type(kernel).__name__}) must be a tensor or nested numbers: {error}.") from None
    if weight.is_complex() or weight.dim() not in (dim, dim + 2) or weight.numel() == 0:
        raise ValueError(
            f"`kernel` shape (={tuple(weight.shape)}) must be real, of {dim} axes (*k) or {dim + 2} (o, c/g, *k)."
        )
    if not weight.is_floating_point():
        weight = weight.to(torch.get_default_dtype())
    return weight.expand(groups, 1, *weight.shape) if weight.dim() == dim else weight


class SpatialSeparableConv2d(_SpatialSeparableConv):
    """A convolution down the columns, then one along the rows: K×1 into the channels between, 1×K out of them.

    y[n,o,p] = b[o] + Σ_m Σ_k₂ R[o,m,k₂] Σ_c Σ_k₁ C[m,c,k₁] x[n, c, s·p + d·(k₁,k₂) − pad]. K·M·(C + O) weights instead
    of K²·C·O: for large kernels, and for filters that are outer products, as Gaussian and Sobel are
    (:meth:`from_kernel`). It expresses the kernels that are a sum of M/G outer products in each group, and no other. It
    passes over memory twice, so its time does not follow from its MACs alone. The same as two ordinary convolutions in
    sequence, each with the stride, padding and dilation of its axis.

    Args:
        in_channels, out_channels: C and O.
        kernel_size, stride, padding, dilation, padding_mode: as :class:`Conv2d`; the entry of an axis is applied in the
            pass along that axis, so the whole has the output size and the border of one dense convolution.
        groups: G, in every pass.
        bias: whether a number per output channel is added, after the last pass. There is none between the passes.
        mid_channels: M, the channels between two passes, a multiple of ``groups``; the lesser of C and O if None.
        depthwise: short for ``groups=in_channels``: each channel has a column and a row of its own.

    Shape:
        input (n, c, h, w) or (c, h, w); output as :class:`Conv2d`; column_weight (m, c/g, k, 1), row_weight
        (o, m/g, 1, k).

    Raises:
        TypeError, ValueError: as :class:`Conv2d`; and ``mid_channels`` that the groups do not divide.

    Source:
        Rigamonti et al., 2013; Jaderberg, Vedaldi & Zisserman, 2014; Szegedy et al., 2016.

    Example:
        >>> sobel = [[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]
        >>> layer = SpatialSeparableConv2d.from_kernel(sobel, groups=3, padding=1)
        >>> layer.column_weight[0].flatten().tolist(), layer.row_weight[0].flatten().tolist()
        ([1.0, 2.0, 1.0], [1.0, 0.0, -1.0])
        >>> layer(torch.randn(1, 3, 28, 28)).shape
        torch.Size([1, 3, 28, 28])
    """

    dim = 2


class SpatialSeparableConv3d(_SpatialSeparableConv):
    """Three passes over a volume or a clip, along depth, columns and rows: K×1×1, 1×K×1, 1×1×K.

    Arguments as :class:`SpatialSeparableConv2d`; ``mid_channels`` stand after the first and after the second pass, and
    the middle one mixes them: K·M·(C + M + O) weights.

    Shape:
        input (n, c, d, h, w) or (c, d, h, w); depth_weight (m, c/g, k, 1, 1), column_weight (m, m/g, 1, k, 1),
        row_weight (o, m/g, 1, 1, k).

    Raises:
        TypeError, ValueError: as :class:`SpatialSeparableConv2d`.

    Source:
        As :class:`SpatialSeparableConv2d`; tensor trains: Oseledets, 2011.

    Example:
        >>> layer = SpatialSeparableConv3d(4, 8, 3, padding=1)
        >>> layer(torch.randn(1, 4, 5, 9, 9)).shape
        torch.Size([1, 8, 5, 9, 9])
    """

    dim = 3


def from_problem(problem: ConvProblem, device: Any = None, dtype: Any = None) -> _SpatialSeparableConv:
    """The layer that computes ``problem``, with random weights."""
    return {2: SpatialSeparableConv2d, 3: SpatialSeparableConv3d}[problem.dim](
        problem.in_channels,
        problem.out_channels,
        problem.kernel_size,
        problem.stride,
        problem.padding,
        problem.dilation,
        problem.groups,
        problem.bias,
        problem.padding_mode,
        device,
        dtype,
        mid_channels=problem.number("mid"),
    )


@planned
def _plan(
    channels: tuple[int, ...],
    kernel_size: tuple[int, ...],
    bias: bool,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
    mode: str,
) -> ConvProblem:
    per_group, mid, out_channels = channels
    return ConvProblem.of(
        "spatial_separable",
        len(kernel_size),
        per_group * integer("groups", groups, 1),
        out_channels,
        kernel_size,
        stride,
        padding,
        dilation,
        groups,
        bias=bias,
        padding_mode=mode,
        mid=mid,
    )


def spatial_separable_conv2d(
    input: Tensor,
    column_weight: Tensor,
    row_weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve ``input`` (n, c, h, w) down its columns, then along its rows.

    Args:
        input: (n, c, h, w) or (c, h, w).
        column_weight: (m, c/g, k, 1).
        row_weight: (o, m/g, 1, k).
        bias: (o,) or None; added after the second pass.
        stride, padding, dilation, groups, padding_mode: as :class:`omniconv.nn.SpatialSeparableConv2d`.

    Returns:
        (n, o, h', w') or (o, h', w').

    Raises:
        TypeError, ValueError: as :class:`omniconv.nn.SpatialSeparableConv2d`.
    """
    column = weight_of("column_weight", column_weight, 4, "(m, c/g, k, 1)")
    row = weight_of("row_weight", row_weight, 4, "(o, m/g, 1, k)")
    plan = _plan(
        (column[1], column[0], row[0]),
        (column[2], row[3]),
        bias is not None,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
    )
    return plan(input, None, column_weight, row_weight, bias)


def spatial_separable_conv3d(
    input: Tensor,
    depth_weight: Tensor,
    column_weight: Tensor,
    row_weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: Any = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolve ``input`` (n, c, d, h, w) along its depth, columns and rows; see :func:`spatial_separable_conv2d`.

    ``depth_weight`` is (m, c/g, k, 1, 1), ``column_weight`` (m, m/g, 1, k, 1), ``row_weight`` (o, m/g, 1, 1, k).
    """
    depth = weight_of("depth_weight", depth_weight, 5, "(m, c/g, k, 1, 1)")
    column = weight_of("column_weight", column_weight, 5, "(m, m/g, 1, k, 1)")
    row = weight_of("row_weight", row_weight, 5, "(o, m/g, 1, 1, k)")
    plan = _plan(
        (depth[1], depth[0], row[0]),
        (depth[2], column[3], row[4]),
        bias is not None,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
    )
    return plan(input, depth_weight, column_weight, row_weight, bias)
