# SPDX-License-Identifier: Apache-2.0
"""``omniconv explain FAMILY IN OUT SIZE``: where one convolution's numbers come from."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

from .leaving import CheckFailed, Refused
from .tail import DTYPES, Tail, examples, tail
from .values import AXES, PADDING, call_of, raised

EXAMPLES = examples(
    "explain depthwise-separable 64 128 56",
    "explain transposed 16 8 8 -k 4 -s 2 -p 1 --proof",
    "explain atrous 64 64 56x48 -d 4 -p same",
)


@click.command("explain", epilog=EXAMPLES)
@click.argument("family")
@click.argument("in_channels", metavar="IN", type=int)
@click.argument("out_channels", metavar="OUT", type=int)
@click.argument("size", metavar="SIZE", type=AXES)
@click.option("-k", "--kernel", "kernel_size", type=AXES, help="Taps. Without it 3, or what the convolution has.")
@click.option("-s", "--stride", type=AXES, help="Step between outputs.")
@click.option(
    "-p", "--padding", type=PADDING, help="1, 1x2, 0:1x1:0 (before:after), or a rule. Without it: keeps the size."
)
@click.option("-d", "--dilation", type=AXES, help="Step between taps.")
@click.option("-g", "--groups", type=int, help="Groups.")
@click.option("--op", "output_padding", type=AXES, help="Output padding of a transposed one.")
@click.option("--heads", type=int, help="Heads, where channels share kernels.")
@click.option("--dim", type=click.IntRange(1, 3), help="Axes; that of SIZE, else 2.")
@click.option("-n", "--batch", type=int, default=1, show_default=True, help="Inputs at once.")
@click.option("--bias", is_flag=True, help="With a bias.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="For the bytes.")
@click.option("--proof", is_flag=True, help="Count the products in a loop; exit 3 if it disagrees with the formula.")
@tail
def command(*, family: str, tail: Tail, **options: Any) -> None:
    """Explain one convolution at one position.

    The formula in letters, your numbers in it, what they come to, the kernel that it gets and why, and with --proof a
    loop that counts.

    FAMILY is a name or alias that `omniconv families` lists. IN and OUT are channels, SIZE input positions (56, 56x48).
    """
    from omniconv.analysis.explanation.explain import explain

    arguments = [options.pop(name) for name in ("in_channels", "out_channels", "size")]
    try:
        explanation = explain(family, *arguments, **options)
    except (ValueError, TypeError) as error:
        raise Refused(str(error), _nearest(family, arguments, options)) from error
    tail.emit(explanation)
    if not explanation.proved:
        raise CheckFailed("the loop counts something else than the formula says.")


def _nearest(family: str, arguments: list[Any], options: dict[str, Any]) -> str:
    """The legal call that is nearest: another name, the numbers that the family asks for, or no number at all."""
    from omniconv.analysis.comparison.compare import closest, position_of, setting_named
    from omniconv.analysis.explanation.explain import DEFAULTS

    if options["proof"] and (call := _call(family, arguments, options | {"proof": False})):
        return call  # only the loop was refused
    name = closest(family)
    if name is None:
        return ""
    whole = {key: raised(value) for key, value in options.items()} | {"padding": options["padding"]}
    candidates = [(arguments, options), ([raised(value) for value in arguments], whole)]
    with suppress(ValueError, TypeError):
        filled: dict[str, Any] = {key: DEFAULTS[key] if options[key] is None else options[key] for key in DEFAULTS}
        filled |= {key: options[key] for key in ("dim", "batch", "padding")}
        in_channels, out_channels, size = arguments
        nearest = setting_named(name)[1].nearest(position_of(in_channels, out_channels, size, **filled))
        if nearest is not None:
            at = nearest[0]
            changed = {key: getattr(at, key) for key in ("groups", "heads") if getattr(at, key) != filled[key]}
            candidates.append(([at.in_channels, at.out_channels, arguments[2]], options | changed))
    given = [key for key in ("padding", *DEFAULTS) if options[key] is not None]
    candidates += [(arguments, options | {key: None}) for key in given]
    candidates.append((arguments, options | dict.fromkeys(given)))
    return next(filter(None, (_call(name, *candidate) for candidate in candidates)), "")


def _call(name: str, arguments: list[Any], options: dict[str, Any]) -> str:
    """The call as typed, or nothing if it is not legal."""
    from omniconv.analysis.explanation.explain import explain

    with suppress(ValueError, TypeError):
        explain(name, *arguments, **options | {"proof": False})
        values = dict(zip(("in_channels", "out_channels", "size"), arguments, strict=True)) | options
        return call_of(click.get_current_context(), values | {"family": name})
    return ""
