# SPDX-License-Identifier: Apache-2.0
"""What ``accelerate`` puts for a depthwise convolution before a pointwise one, and for an expansion before both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from omniconv.core.chain import Link, Rewrite, Rewriting
from omniconv.core.layer import ConvLayer
from omniconv.core.problem import ConvProblem

from .inverted import INVERTED, POINTWISE, SEPARABLE


def rewrite(links: Sequence[Link]) -> Rewriting:
    """The longest beginning of the chain that is one of the family's layers."""
    if _is_pointwise(links[0]) and _is_block(links[1:3]) and _is_inverted(links):
        return Rewrite(3, _inverted(links), "one call: what is wide stays in the cache")
    if _is_block(links[:2]):
        return Rewrite(2, _separable(links), "one call: what stands between stays in the cache")
    return "no depthwise convolution stands before a pointwise one"


def _problem(link: Link) -> ConvProblem | None:
    return link.layer.problem if isinstance(link.layer, ConvLayer) else None


def _is_pointwise(link: Link) -> bool:
    problem = _problem(link)
    if problem is None or problem.transposed or problem.groups != 1:
        return False
    unpadded = problem.fixed_pads and not any(map(any, problem.pads()))
    return unpadded and set(problem.kernel_size) == set(problem.stride) == {1}


def _is_block(links: Sequence[Link]) -> bool:
    """Whether the two are a depthwise separable convolution that is compiled."""
    if len(links) < 2 or links[0].added or not _is_pointwise(links[1]):
        return False
    problem = _problem(links[0])
    if problem is None or problem.transposed or not 1 < problem.groups == problem.in_channels:
        return False
    if not _follows(links[0].layer, links[1].layer):
        return False
    return problem.fixed_pads and problem.padding_mode == "zeros"


def _follows(first: Any, then: Any) -> bool:
    """Whether channels of one are channels of the other: not where samples without a batch are read as one."""
    return bool(first.dim == then.dim and first.out_channels == then.in_channels)


def _is_inverted(links: Sequence[Link]) -> bool:
    expansion, depthwise, pointwise = links[:3]
    if expansion.added or depthwise.layer.out_channels != depthwise.layer.in_channels:
        return False
    if pointwise.activation is not None or pointwise.added == "other":
        return False
    if not _follows(expansion.layer, depthwise.layer) or (pointwise.added and not _keeps_size(depthwise.layer.problem)):
        return False
    return bool(expansion.layer.out_channels != expansion.layer.in_channels)


def _keeps_size(problem: ConvProblem) -> bool:
    """Whether the output is as large as the input, whatever that is."""
    pairs = zip(problem.pads(), problem.span, strict=True)
    return set(problem.stride) == {1} and all(sum(pair) == span - 1 for pair, span in pairs)


def _separable(links: Sequence[Link]) -> Any:
    depthwise, pointwise = links[0].layer, links[1].layer
    made = SEPARABLE[depthwise.dim](
        depthwise.in_channels,
        pointwise.out_channels,
        depthwise.kernel_size,
        depthwise.stride,
        depthwise.padding,
        depthwise.dilation,
        bias=pointwise.bias is not None,
        device="meta",
        multiplier=depthwise.out_channels // depthwise.in_channels,
        depthwise_bias=depthwise.bias is not None,
        mid_activation=links[0].activation,
        activation=links[1].activation,
    )
    made.depthwise_weight, made.depthwise_bias = depthwise.weight, depthwise.bias
    made.pointwise_weight, made.bias = pointwise.weight, pointwise.bias
    return made.train(mode=False)


def _inverted(links: Sequence[Link]) -> nn.Module:
    first = links[0].layer
    expansion: Any = POINTWISE[first.dim](
        first.in_channels,
        first.out_channels,
        bias=first.bias is not None,
        device="meta",
        activation=links[0].activation,
    )
    expansion.weight, expansion.bias = first.weight, first.bias
    return INVERTED[first.dim].from_parts(expansion, _separable(links[1:3]), bool(links[2].added)).train(mode=False)
