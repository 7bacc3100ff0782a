# SPDX-License-Identifier: Apache-2.0
"""The problem string: ``family:n1_c64_o128_i56x56_k3x3_s2x2_pad1x0:1_heads=8`` to a problem and back.

Letters as in docs/notation.md: n batch, c and o channels, i input positions, k taps, s stride, d dilation, g groups,
``pad`` padding (a number, ``before:after`` or a rule, axes joined by ``x``), ``op`` output padding, ``t`` transposed,
``b`` bias, a padding mode by its name, and ``name=value`` for what is special to the family. Defaults are left out.
"""

from __future__ import annotations

import re
from inspect import signature

from .padding import AxisPadding
from .problem import PADDING_MODES, ConvProblem, Special

_OWN = signature(ConvProblem.of).parameters  # what no family can name something special
_TOKEN = re.compile(r"^(pad|op|[ncoiksdg])(\d.*|(?<=pad)[a-z].*)$")


def problem_text(problem: ConvProblem) -> str:
    """Return the string of ``problem``."""
    tokens = [] if problem.batch is None else [f"n{problem.batch}"]
    tokens += [f"c{problem.in_channels}", f"o{problem.out_channels}"]
    if problem.in_size is not None:
        tokens.append("i" + _axes(problem.in_size))
    tokens.append("k" + _axes(problem.kernel_size))
    for letter, values, default in (("s", problem.stride, 1), ("d", problem.dilation, 1)):
        if any(v != default for v in values):
            tokens.append(letter + _axes(values))
    if problem.groups != 1:
        tokens.append(f"g{problem.groups}")
    if any(entry != (0, 0) for entry in problem.padding):
        tokens.append("pad" + _joined([_padding_text(entry) for entry in problem.padding]))
    if any(problem.output_padding):
        tokens.append("op" + _axes(problem.output_padding))
    if problem.padding_mode != "zeros":
        tokens.append(problem.padding_mode)
    tokens += ["t"] * problem.transposed + ["b"] * problem.bias
    tokens += [f"{name.replace('_', '-')}={value}" for name, value in problem.special]
    return f"{problem.family}:" + "_".join(tokens)


def parse_problem(text: str) -> ConvProblem:
    """Return the problem whose string is ``text``; raises ``ValueError`` that names the token it cannot read."""
    family, colon, body = text.partition(":")
    if not colon or not family:
        raise ValueError(f"`text` (={text!r}) must begin with a family and a colon; use 'conv:c3_o8_i32x32_k3x3'.")
    fields: dict[str, str] = {}
    special: dict[str, Special] = {}
    for token in body.split("_"):
        match = _TOKEN.match(token)
        name, equals, value = token.partition("=")
        name = name.replace("-", "_")
        if equals and name.isidentifier() and name not in {*special, *_OWN}:
            special[name] = int(value) if re.fullmatch(r"-?\d+", value) else value
        elif token in ("t", "b") and token not in fields:
            fields[token] = ""
        elif token in PADDING_MODES and "mode" not in fields:
            fields["mode"] = token
        elif match and match[1] not in fields:
            fields[match[1]] = match[2]
        else:
            raise ValueError(f"`text` (={text!r}) has a token {token!r} that is not known or stands twice.")
    missing = [letter for letter in ("c", "o", "k") if letter not in fields]
    if missing:
        raise ValueError(f"`text` (={text!r}) lacks {', '.join(missing)}; c, o and k are always needed.")
    if "n" in fields and "i" not in fields:
        raise ValueError(f"`text` (={text!r}) has a batch without an input size; give both, or leave n out.")
    kernel = _numbers(fields["k"])
    padding = [_padding_value(entry) for entry in fields.get("pad", "0").split("x")]
    return ConvProblem.of(
        family,
        len(kernel),
        _number(fields["c"]),
        _number(fields["o"]),
        kernel,
        _numbers(fields.get("s", "1")),
        padding * len(kernel) if len(padding) == 1 else padding,
        _numbers(fields.get("d", "1")),
        _number(fields.get("g", "1")),
        bias="b" in fields,
        padding_mode=fields.get("mode", "zeros"),
        transposed="t" in fields,
        output_padding=_numbers(fields.get("op", "0")),
        in_size=_numbers(fields["i"]) if "i" in fields else None,
        batch=_number(fields["n"]) if "n" in fields else None,
        **special,
    )


def _axes(values: tuple[int, ...]) -> str:
    return "x".join(map(str, values))


def _joined(entries: list[str]) -> str:
    return entries[0] if len(set(entries)) == 1 else "x".join(entries)


def _padding_text(entry: AxisPadding) -> str:
    if isinstance(entry, str):
        return entry.replace("_", "-")
    return str(entry[0]) if entry[0] == entry[1] else f"{entry[0]}:{entry[1]}"


def _padding_value(entry: str) -> AxisPadding:
    if entry[:1].isalpha():
        return entry.replace("-", "_")
    before, _, after = entry.partition(":")
    return _numbers(before)[0], _numbers(after or before)[0]


def _number(text: str) -> int:
    return _numbers(text.replace("x", "×"))[0]


def _numbers(text: str) -> tuple[int, ...]:
    values = text.split("x")
    if not all(re.fullmatch(r"\d+", value) for value in values):
        raise ValueError(f"`text` has {text!r} where whole numbers are expected, axes joined by x; use '3x3'.")
    return tuple(int(value) for value in values)
