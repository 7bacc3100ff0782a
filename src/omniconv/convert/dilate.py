# SPDX-License-Identifier: Apache-2.0
"""``dilate``: a classifier turned dense, its last strides into dilation, with the same weights."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from omniconv.core.layer import PlannedLayer
from omniconv.core.numbers import divisors, integer, one_of

from .dilation import rules_shapes, rules_windows  # noqa: F401 - a module of rules registers them
from .dilation.calls import Call
from .dilation.denser import Denser
from .dilation.survey import Map, Survey

HEADS, MEANS = ("map", "drop", "keep"), ("refuse", "sampled")


def dilate(
    model: nn.Module, output_stride: int | Sequence[int], *, head: str = "map", means: str = "refuse"
) -> fx.GraphModule:
    """Turn the strides of a network past ``output_stride`` into dilation: denser maps, with the same weights.

    A step that reads x[s·p + d·k − pad] behind removed strides of r reads x̂[q + r·d·k − r·pad], and r·s are removed
    behind it. Every map ŷ of the result then holds the map y of the network in every r-th position, ŷ[r·p] = y[p] up
    to rounding, at the borders and for inputs of any size too; the positions between are, away from the borders, what
    the network computes of its input moved by less than a stride. It is how a classifier becomes the backbone of a
    segmentation network, or says at each position what it sees there. It costs r² times the arithmetic behind removed
    strides of r, in two dimensions; where finer labels are enough, upsample coarse scores instead.

    Args:
        model: looked at with ``torch.fx``, in evaluation mode, and left as it is.
        output_stride: input positions from one position of the coarsest map to the next, a divisor of what it is in
            ``model``; one number, or one an axis.
        head: what becomes of a mean over all positions at the end, and of what follows it. ``"map"``: the mean is left
            out and the rest, which must be affine, computed at each position: the result is a map of scores, whose mean
            over the positions r·p is what ``model`` says. ``"drop"``: the result is the map before it. ``"keep"``: it
            stays, a mean over more positions, as in a DRN; its scores are others.
        means: of a mean over all positions that returns to the map, as in squeeze and excitation. ``"refuse"`` it, as
            over more positions it is another number; or ``"sampled"``, take it over the positions r·p alone, which
            makes ŷ[r·p] = y[p] exact.

    Returns:
        A copy with the same modules and state dict, run as the graph that was traced: other code of ``model`` than its
        layers, such as stochastic depth written into a forward, stays in evaluation mode, and its methods are gone.
        Layers of other numbers are the library's or torch's; a padding that one cannot hold is a step before it.

    Raises:
        TypeError: an argument of another type.
        ValueError: an output stride that is no divisor, a model that ``torch.fx`` cannot trace, and a step that has no
            counterpart on denser maps: it takes statistics over positions, upsamples, deforms, joins maps of which
            different strides were removed, or is shared between places with different strides. The text names it.

    Source:
        Holschneider et al., 1989 (à trous); Chen et al., DeepLab, 2018; Yu et al., Dilated Residual Networks, 2017.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(
        ...     torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, 2, 1), torch.nn.ReLU(),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(16, 10),
        ... )
        >>> x = torch.randn(1, 3, 33, 40)
        >>> scores = dilate(net, 1)(x)
        >>> scores.shape
        torch.Size([1, 10, 33, 40])
        >>> torch.allclose(scores[:, :, ::4, ::4].mean((2, 3)), net(x), atol=1e-5)
        True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` (={type(model).__name__}) must be an nn.Module.")
    if isinstance(model, PlannedLayer):
        raise TypeError(f"`model` (={type(model).__name__}) must be a network, not one layer; use nn.Sequential.")
    one_of("head", head, HEADS)
    one_of("means", means, MEANS)
    root = _copied(model)
    graph = _traced(root)
    survey = Survey(root, _axes(root, graph)).follow(graph)
    wanted = _wanted(survey, output_stride)
    return Denser(survey, graph, wanted, type(model).__name__).run(head, means)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own_linear = isinstance(m, nn.Linear) and type(m).__module__.startswith("omniconv.")
        return isinstance(m, PlannedLayer) or own_linear or super().is_leaf_module(m, module_qualified_name)


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:  # of tensors that were computed from others, as pruning leaves them
        raise ValueError(
            f"`model` (={type(model).__name__}) must be one that can be copied, and holds a tensor that was computed; "
            "use parameters, as torch.nn.utils.prune.remove and parametrizations leave them."
        ) from error


def _traced(root: nn.Module) -> fx.Graph:
    """The graph of what ``root`` does in evaluation mode; ``root`` keeps its mode."""
    training = [(module, module.training) for module in root.modules()]
    root.eval()
    try:
        return _Tracer().trace(root)
    except Exception as error:  # whatever a forward does with what it takes for a tensor
        says = re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".")
        raise ValueError(
            f"`model` (={type(root).__name__}) must be traceable by torch.fx, which says: {says}; use layers in place "
            "of code that looks at sizes, as omniconv.convert.swap with `rules` puts them there."
        ) from error
    finally:
        for module, flag in training:
            module.training = flag


def _axes(root: nn.Module, graph: fx.Graph) -> int:
    """As many as the first convolution or pool has."""
    for node in graph.nodes:
        call = Call.of(root, node)
        if call.dim and re.search("conv|pool|planned", call.name):
            return call.dim
    raise ValueError(f"`model` (={type(root).__name__}) must have a convolution; none was found in what it computes.")


def _wanted(survey: Survey, output_stride: Any) -> tuple[int, ...]:
    """The output stride of each axis, checked."""
    strides = [state.stride for state in survey.states.values() if isinstance(state, Map)]
    totals = [math.lcm(*(s[axis].numerator for s in strides)) for axis in range(survey.dim)]
    if isinstance(output_stride, Sequence) and not isinstance(output_stride, str):
        given = [integer("output_stride", stride, 1) for stride in output_stride]
        if len(given) != survey.dim:
            raise ValueError(
                f"`output_stride` (={tuple(given)}) must be one number, or one for each of {survey.dim} axes; use "
                f"{tuple(totals)}."
            )
    else:
        given = [integer("output_stride", output_stride, 1)] * survey.dim
        totals = [math.lcm(*totals)] * survey.dim  # an axis of less stride keeps what it has
    for stride, total in zip(given, totals, strict=True):
        if total % stride:
            *few, last = map(str, divisors(total))
            legal = f"{', '.join(few)} or {last}" if few else last
            raise ValueError(f"`output_stride` (={output_stride}) must divide the model's (={total}); use {legal}.")
    return tuple(given)
