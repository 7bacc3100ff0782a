# SPDX-License-Identifier: Apache-2.0
"""What torch's ``FlopCounterMode`` counts for compiled kernels, which it would else count as nothing.

Forward, what it counts for the ATen calls that compute the same; backward, as much for the input as for all weights
together, however many of them are wanted.
(Its own formula for ``aten::convolution_backward`` takes the weight gradient of groups for a dense one.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, flop_registry, register_flop_formula


def count_as(formula: Callable[..., Any], operators: Sequence[Any], backwards: Sequence[Any], free: int) -> None:
    """Count operators as ``formula`` of their arguments, which is made of ATen calls.

    Those of ``backwards`` take a gradient before these arguments, and behind them the bits of the wanted gradients: of
    the input first, and of the weights; the bits of ``free`` are those of biases, which take no products.
    """

    def forward(*arguments: Any, **_: Any) -> int:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            formula(*[_without_memory(a) if isinstance(a, Tensor) else a for a in arguments])
        return int(counter.get_total_flops())

    def backward(_: Tensor, *arguments: Any, **__: Any) -> int:
        *given, wanted = arguments
        return forward(*given) * _kinds(wanted & 1, wanted & ~1 & ~free)

    register_flop_formula([o.overloadpacket for o in operators], get_raw=True)(forward)
    register_flop_formula([o.overloadpacket for o in backwards], get_raw=True)(backward)


def _overrideable_backward(
    grad: Sequence[int], input: Sequence[int], weight: Sequence[int], *numbers: Any, **_: Any
) -> int:
    transposed, wanted = numbers[-4], numbers[-1]
    once = conv_flop_count(list(input), list(weight), list(grad), transposed=transposed)
    return once * _kinds(wanted[0], wanted[1])


def _kinds(*wanted: Any) -> int:
    return sum(map(bool, wanted))


def _without_memory(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


_BACKWARD = torch.ops.aten.convolution_backward_overrideable
if _BACKWARD not in flop_registry:  # a later torch may count it itself
    register_flop_formula(_BACKWARD)(_overrideable_backward)
