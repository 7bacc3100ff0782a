# SPDX-License-Identifier: Apache-2.0
"""One convolution explained: its formula, your numbers in it, the kernel it gets and why, and a loop that counts."""

from __future__ import annotations

from typing import Any

from omniconv.analysis.comparison.compare import BYTES, position_of, setting_named
from omniconv.analysis.explanation.result import Explanation, Walk
from omniconv.core.choose import choose
from omniconv.core.family import Setting
from omniconv.core.numbers import one_of, per_axis
from omniconv.core.padding import parse_padding
from omniconv.core.problem import ConvProblem
from omniconv.core.taps import count_products

# What stands for an argument that was not given.
DEFAULTS = {"kernel_size": 3, "stride": 1, "dilation": 1, "groups": 4, "heads": 8, "output_padding": 0}


def explain(
    family: str,
    in_channels: int,
    out_channels: int,
    size: int | tuple[int, ...],
    *,
    kernel_size: int | tuple[int, ...] | None = None,
    stride: int | tuple[int, ...] | None = None,
    padding: Any = None,
    dilation: int | tuple[int, ...] | None = None,
    groups: int | None = None,
    output_padding: int | tuple[int, ...] | None = None,
    heads: int | None = None,
    dim: int | None = None,
    batch: int = 1,
    bias: bool = False,
    dtype: str = "float32",
    proof: bool = False,
) -> Explanation:
    """Explain what one convolution costs, with the numbers put into the formulas. It imports no torch.

    Args:
        family: a name or alias that ``omniconv families`` lists, with hyphens or underscores.
        in_channels, out_channels, size: channels in and out, and input positions (one number for all axes).
        kernel_size, stride, dilation, groups, output_padding, heads: None for what the convolution has by default (3
            taps, stride 1); a value that it cannot have is an error.
        padding: as everywhere in omniconv; None keeps the size (divided, or transposed multiplied, by the stride).
        dim: number of axes; that of ``size`` where it is a tuple, else 2.
        batch: inputs at once.
        bias: whether there is one.
        dtype: of the elements, for the bytes.
        proof: whether to count the products in a loop.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument outside its rule; the text names the rule and the nearest legal value.

    Example:
        >>> explain("transposed", 16, 8, 8, kernel_size=4, stride=2, padding=1).macs
        131072
    """
    record, setting = setting_named(family)
    given = {
        "kernel_size": kernel_size,
        "stride": stride,
        "dilation": dilation,
        "groups": groups,
        "heads": heads,
        "output_padding": output_padding,
    }
    numbers = {name: DEFAULTS[name] if value is None else value for name, value in given.items()}
    itemsize = BYTES[one_of("dtype", dtype, tuple(BYTES))]
    position = position_of(in_channels, out_channels, size, dim=dim, batch=batch, padding=padding, bias=bias, **numbers)
    problem = setting.build(position)
    record.check(problem)
    for name, value in given.items():
        if value is not None:
            _must_have(setting, problem, name, value)
    if padding is not None and problem.padding != (asked := parse_padding(padding, problem.dim)):
        _must_be("padding", asked, problem.padding, setting)
    cost = record.cost(problem)
    walks = tuple(Walk(s, None if s.walk is None else count_products(s.walk)) for s in cost.steps) if proof else ()
    return Explanation(record, setting, problem, cost, choose(problem, dtype), itemsize, walks)


def _must_have(setting: Setting, problem: ConvProblem, name: str, value: Any) -> None:
    """Raise where the convolution silently would have another value than the one asked for."""
    special = dict(problem.special)
    if name in ("groups", "heads"):
        actual: Any = special.get(name, 1 if name == "heads" else problem.groups)
        asked = value
    else:
        actual = getattr(problem, name) or (0,) * problem.dim
        asked = per_axis(name, value, problem.dim, 0)
    if asked != actual:
        _must_be(name, asked, actual, setting)


def _must_be(name: str, asked: Any, actual: Any, setting: Setting) -> None:
    raise ValueError(f"`{name}` (={_brief(asked)}) must be {_brief(actual)} for {setting.name}; leave it out.")


def _brief(value: Any) -> Any:
    """One value for all axes where they agree."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
