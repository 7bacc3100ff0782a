# SPDX-License-Identifier: Apache-2.0
"""What ``accelerate`` puts for one convolution or linear map and what follows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from omniconv.core.chain import Link, Rewrite, Rewriting
from omniconv.core.choose import broad_groups, choose

from . import FAMILY, is_unpadded_pointwise
from .layer import Linear, PointwiseConv1d, PointwiseConv2d, PointwiseConv3d
from .normed import telling
from .prepacked import PrepackedConv, why_not_prepacked

__all__ = ["rewrite", "telling"]

POINTWISE = (PointwiseConv1d, PointwiseConv2d, PointwiseConv3d)


def rewrite(links: Sequence[Link]) -> Rewriting:
    """A layer for the first link, if one computes it with what follows."""
    link = links[0]
    if isinstance(link.layer, nn.Linear):
        return _linear(link)
    problem = link.layer.problem
    if problem.family != FAMILY.name:
        return f"it is a problem of {problem.family}"
    compiled = choose(problem).kernel.compiled
    if compiled and is_unpadded_pointwise(problem):
        return Rewrite(1, _pointwise(link), "one call, with weights packed once")
    if compiled and "float32" not in broad_groups(problem):
        return "a compiled kernel computes it by itself"
    if (why := why_not_prepacked(problem)) is not None:
        return why
    made = PrepackedConv(link.layer, link.activation)
    where = "in channels last " if compiled else ""
    who = "a product of matrices in channels last, else oneDNN's" if made.multiplies else "oneDNN's"
    return Rewrite(1, made, f"{where}one call, with weights packed once: {who}")


def _pointwise(link: Link) -> nn.Module:
    layer: Any = link.layer
    sizes, bias = (layer.in_channels, layer.out_channels), layer.bias is not None
    made: Any = POINTWISE[layer.dim - 1](*sizes, layer.stride, bias=bias, device="meta", activation=link.activation)
    made.weight, made.bias = layer.weight, layer.bias
    return made.train(mode=False)


def _linear(link: Link) -> Rewriting:
    layer = link.layer
    if not layer.in_features or not layer.out_features:
        return "it has no features"
    made = Linear(
        layer.in_features, layer.out_features, layer.bias is not None, device="meta", activation=link.activation
    )
    made.weight, made.bias = layer.weight, layer.bias
    return Rewrite(1, made.train(mode=False), "one call, with weights packed once")
