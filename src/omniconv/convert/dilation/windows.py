# SPDX-License-Identifier: Apache-2.0
"""Steps that slide a window over a map, and the same steps over a denser one.

Let a map x of P positions an axis stand in every r-th of the P̂ positions of x̂: x̂[r·i] = x[i] and P = ⌈P̂/r⌉. A window
reads x[s·p + d·k − a]; on x̂ it reads x̂[t·q + r·d·k − r·a], with t = s/f. At q = r·f·p that is the same element, and on
the same side of each border: 0 ≤ i < P exactly where 0 ≤ r·i < P̂. With r·b in place of b positions added behind, the
result has P̂′ positions with ⌈P̂′/(r·f)⌉ = P′. So it stands to the old result as x̂ stands to x, whatever the sizes.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from omniconv.core.numbers import per_axis
from omniconv.core.padding import AxisPadding, Pair, gather_pair, parse_padding

Ints = tuple[int, ...]
Pairs = tuple[Pair, ...]
ARGUMENTS = {
    "convolution": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool": ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    "avg_pool": ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
}


@dataclass(frozen=True)
class Window:
    """The numbers of one step, in torch's words.

    Attributes:
        kind: one of ``ARGUMENTS``, or ``pad`` or ``slice``, which are windows of one tap.
        where: of these, the place of each axis in their list of numbers; -1 where it has none.
    """

    kind: str
    kernel: Ints
    stride: Ints
    dilation: Ints
    padding: tuple[AxisPadding, ...]
    mode: str = "zeros"
    ceil: bool = False
    counted: bool = True
    divisor: int | None = None
    where: Ints = ()

    @classmethod
    def of(cls, kind: str, dim: int, given: dict[str, Any]) -> Window:
        """From arguments by name; raises TypeError or ValueError where one of them is no number."""
        kernel = per_axis("kernel_size", given["kernel_size"], dim, 1)
        return cls(
            kind,
            kernel,
            per_axis("stride", given.get("stride") or kernel, dim, 1),
            per_axis("dilation", given.get("dilation", 1), dim, 1),
            parse_padding(given.get("padding", 0), dim),
            given.get("padding_mode", "zeros"),
            bool(given.get("ceil_mode", False)),
            bool(given.get("count_include_pad", True)),
            given.get("divisor_override"),
        )

    @classmethod
    def of_one_tap(cls, kind: str, stride: Ints, padding: Pairs, where: Ints, mode: str = "constant") -> Window:
        """Of a step that only shifts, cuts, extends or skips."""
        ones = (1,) * len(where)
        return cls(kind, ones, stride, ones, padding, mode, where=where)

    @property
    def fixed(self) -> Pairs | None:
        """What is added before and after each axis, or None where it follows the size of the map."""
        numbers = zip(self.padding, self.kernel, self.stride, self.dilation, strict=True)
        pairs = tuple(gather_pair(entry, None, k, s, d) for entry, k, s, d in numbers)
        known = tuple(pair for pair in pairs if pair is not None)
        return known if len(known) == len(pairs) and not self.ceil else None

    def pads(self, sizes: Ints) -> Pairs:
        """What is added before and after each axis of a map of these sizes."""
        found = []
        for axis, size in enumerate(sizes):
            k, s, d = self.kernel[axis], self.stride[axis], self.dilation[axis]
            pair = gather_pair(self.padding[axis], size, k, s, d) or (0, 0)  # which is known, as the size is
            found.append(_with_last(size, pair, d * (k - 1) + 1, s) if self.ceil else pair)
        return tuple(found)

    def spread(self, removed: Ints, step: Ints) -> Window:
        """The numbers on a denser map; padding that follows its size keeps its rule."""
        dilation = tuple(d * r if k > 1 else d for k, d, r in zip(self.kernel, self.dilation, removed, strict=True))
        padding = self.padding if self.fixed is None else times(self.fixed, removed)
        return replace(self, stride=step, dilation=dilation, padding=padding)

    def refusal(self, removed: Ints) -> str:
        """Why the step has no counterpart on a denser map; nothing where it has one."""
        pairs = self.fixed or ((1, 1),) * len(removed)
        moved = any(r > 1 and pair != (0, 0) for r, pair in zip(removed, pairs, strict=True))
        if moved and self.mode not in ("zeros", "constant"):
            return f"pads with {self.mode!r}, which at the far edge of a denser map repeats other positions"
        return ""


def times(pairs: Pairs, removed: Ints) -> Pairs:
    """As many positions of a denser map."""
    return tuple((r * before, r * after) for (before, after), r in zip(pairs, removed, strict=True))


def flat(pairs: Pairs) -> Ints:
    """As ``F.pad`` wants them: the last axis first."""
    return tuple(amount for pair in reversed(pairs) for amount in pair)


def _with_last(size: int, pair: Pair, span: int, stride: int) -> Pair:
    """What ``ceil_mode`` adds: room for a last window that begins before the end of the map."""
    before, after = pair
    count = torch.sym_min(-(-(size + before + after - span) // stride) + 1, -(-(size + before) // stride))
    return before, torch.sym_max((count - 1) * stride + span - size - before, 0)


def _sizes_before(x: Tensor, removed: Ints) -> Ints:
    """The sizes of the map that stands in every ``removed``-th position of ``x``."""
    return tuple(-(-size // r) for size, r in zip(x.shape[-len(removed) :], removed, strict=True))


def bare(window: Window) -> tuple[Any, ...]:
    """As an argument that a graph can hold."""
    return astuple(window)


def padded(x: Tensor, window: tuple[Any, ...], removed: Ints, mode: str, value: float | None) -> Tensor:
    """``x`` with ``removed`` times what the window adds to the map in every ``removed``-th position."""
    if isinstance(x, fx.Proxy):  # symbolic tracing knows no sizes: it records the call
        return x.tracer.create_proxy("call_function", padded, (x, window, removed, mode, value), {})
    return F.pad(x, flat(times(Window(*window).pads(_sizes_before(x, removed)), removed)), mode, value)


def averaged(x: Tensor, window: tuple[Any, ...], removed: Ints, step: Ints) -> Tensor:
    """The means that the window takes of the map in every ``removed``-th position of ``x``, and those between them."""
    if isinstance(x, fx.Proxy):
        return x.tracer.create_proxy("call_function", averaged, (x, window, removed, step), {})
    of = Window(*window)
    added = times(of.pads(_sizes_before(x, removed)), removed)
    total = _sums(F.pad(x, flat(added)), of, removed, step)
    if of.divisor:
        return total / of.divisor
    # float32 counts exactly; padding may count, but never what ceil_mode adds behind it
    there = torch.ones_like(x[(0,) * (x.dim() - len(removed))], dtype=torch.float32)[None, None]
    counting = replace(of, ceil=False).fixed if of.counted else None
    if counting is not None:
        counting = times(counting, removed)
        there = F.pad(there, flat(counting), value=1.0)
        added = tuple((0, all_ - counts) for (_, all_), (_, counts) in zip(added, counting, strict=True))
    return total / _sums(F.pad(there, flat(added)), of, removed, step).clamp(min=1).to(x.dtype)


def _sums(x: Tensor, window: Window, removed: Ints, step: Ints) -> Tensor:
    dim = len(removed)
    convolve, dilation = (F.conv1d, F.conv2d, F.conv3d)[dim - 1], window.spread(removed, step).dilation
    alone = x.flatten(0, -dim - 1).unsqueeze(1)
    found = convolve(alone, x.new_ones((1, 1, *window.kernel)), stride=step, dilation=dilation)
    return found.reshape(*x.shape[:-dim], *found.shape[2:])
