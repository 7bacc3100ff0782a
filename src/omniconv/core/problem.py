# SPDX-License-Identifier: Apache-2.0
"""``ConvProblem``: the user's arguments of one convolution as numbers. It imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .numbers import boolean, integer, must_divide, one_of, per_axis
from .padding import AxisPadding, Pair, crop_pair, gather_pair, parse_padding

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
Special = int | str


@dataclass(frozen=True)
class ConvProblem:
    """One convolution: which channels meet, where the taps sit, which way it runs, and on what size.

    Made by :meth:`of`, which takes arguments as torch does and checks them; the fields hold the numbers. ``in_size``
    and ``batch`` are None for a layer that has not seen its input; :meth:`at` fills them in. ``special`` holds what
    only one family knows (heads, offset groups, …), read as ``problem["heads"]``.

    Its string, ``conv:n1_c64_o128_i56x56_k3x3_pad1``, names it in tests, benchmarks and figures and parses back
    (see :mod:`omniconv.core.text`).
    """

    family: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[AxisPadding, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    bias: bool = False
    padding_mode: str = "zeros"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    in_size: tuple[int, ...] | None = None
    batch: int | None = None
    special: tuple[tuple[str, Special], ...] = ()

    @classmethod
    def of(
        cls,
        family: str,
        dim: int,
        in_channels: Any,
        out_channels: Any,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
        *,
        bias: bool = False,
        padding_mode: str = "zeros",
        transposed: bool = False,
        output_padding: Any = 0,
        in_size: Any = None,
        batch: Any = None,
        **special: Special,
    ) -> ConvProblem:
        """Check the arguments and return the problem.

        Args:
            family: name of the family whose formula it is.
            dim: number of spatial axes.
            in_channels, out_channels, groups: C, O and G.
            kernel_size, stride, dilation, output_padding: an integer for all axes or one per axis.
            padding: an integer, a rule (``valid``, ``same``, ``same_lower``, ``tf_same``, ``causal``), or one entry
                per axis, each an integer, a pair ``(before, after)`` or a rule. On a transposed problem: the crop.
            padding_mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.
            in_size: input positions per axis, if known.
            batch: N, if known.
            special: what is special to the family.

        Raises:
            TypeError: an argument of a wrong type.
            ValueError: an argument outside its rule; the text names the rule and the nearest legal value.
        """
        channels = integer("in_channels", in_channels, 1)
        outputs = integer("out_channels", out_channels, 1)
        shared = integer("groups", groups, 1)
        must_divide("groups", shared, "in_channels", channels, outputs)
        must_divide("groups", shared, "out_channels", outputs, channels)
        problem = cls(
            family=family,
            in_channels=channels,
            out_channels=outputs,
            kernel_size=per_axis("kernel_size", kernel_size, dim, 1),
            stride=per_axis("stride", stride, dim, 1),
            padding=parse_padding(padding, dim),
            dilation=per_axis("dilation", dilation, dim, 1),
            groups=shared,
            bias=boolean("bias", bias),
            padding_mode=one_of("padding_mode", padding_mode, PADDING_MODES),
            transposed=transposed,
            output_padding=per_axis("output_padding", output_padding, dim, 0) if transposed else (),
            special=tuple((name, special[name]) for name in sorted(special)),
        )
        problem._check_rules()
        return problem if in_size is None else problem.at(per_axis("in_size", in_size, dim, 0), batch)

    def _check_rules(self) -> None:
        for axis, entry in enumerate(self.padding):
            if entry == "same" and self.stride[axis] != 1 and not self.transposed:
                raise ValueError(
                    f"`padding` (='same') needs `stride` (={self.stride[axis]}) to be 1, as in torch; "
                    "use 'tf_same', which allows any stride."
                )
        if not self.transposed:
            return
        if self.padding_mode != "zeros":
            raise ValueError(
                f"`padding_mode` (={self.padding_mode!r}) must be 'zeros' for a transposed convolution; use 'zeros'."
            )
        for axis, extra in enumerate(self.output_padding):
            if extra and isinstance(self.padding[axis], str) and self.padding[axis] != "valid":
                raise ValueError(
                    f"`output_padding` (={extra}) must be 0 where `padding` (={self.padding[axis]!r}) fixes the output "
                    "size; use 0, or a number for `padding`."
                )
            most = max(self.stride[axis], self.dilation[axis]) - 1
            if extra > most:
                raise ValueError(
                    f"`output_padding` (={extra}) must be smaller than `stride` (={self.stride[axis]}) or `dilation` "
                    f"(={self.dilation[axis]}); use {most} or less."
                )

    def __getitem__(self, name: str) -> Special:
        for key, value in self.special:
            if key == name:
                return value
        raise KeyError(f"{name!r} is not special to family {self.family!r}")

    def get(self, name: str, default: Special) -> Special:
        """The special value ``name``, or ``default`` where the problem does not say."""
        return dict(self.special).get(name, default)

    def number(self, name: str) -> int:
        """The special value ``name``, which is a number."""
        value = self[name]
        if isinstance(value, str):
            raise TypeError(f"`{name}` (={value!r}) must be an integer.")
        return value

    @property
    def dim(self) -> int:
        return len(self.kernel_size)

    @property
    def span(self) -> tuple[int, ...]:
        """Input positions from the first tap to the last, per axis: d(k-1) + 1."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True))

    def at(self, in_size: tuple[int, ...], batch: int | None = 1) -> ConvProblem:
        """This problem on an input of ``in_size`` positions; raises ``ValueError`` where no output would exist."""
        self.out_size_of(in_size)
        return replace(self, in_size=tuple(in_size), batch=1 if batch is None else integer("batch", batch, 0))

    def pads(self, in_size: tuple[int, ...] | None = None) -> tuple[Pair, ...]:
        """Zeros added (gather) or positions cropped (transposed), before and after each axis."""
        sizes = in_size if in_size is not None else self.in_size or (None,) * self.dim
        pairs = []
        for axis, entry in enumerate(self.padding):
            numbers = (self.kernel_size[axis], self.stride[axis], self.dilation[axis])
            pair = crop_pair(entry, *numbers)[0] if self.transposed else gather_pair(entry, sizes[axis], *numbers)
            if pair is None:
                raise ValueError(f"`padding` (={entry!r}) depends on the input size, which is not known yet; use at().")
            pairs.append(pair)
        return tuple(pairs)

    def flat_pads(self, in_size: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The pads as a schema has them: before and after of the first axis, then of the next."""
        return tuple(amount for pair in self.pads(in_size or None) for amount in pair)

    @property
    def fixed_pads(self) -> bool:
        """Whether the padding is the same for every input size."""
        return self.transposed or all(
            gather_pair(e, None, k, s, d) is not None
            for e, k, s, d in zip(self.padding, self.kernel_size, self.stride, self.dilation, strict=True)
        )

    @property
    def appended(self) -> tuple[int, ...]:
        """Positions that a transposed convolution appends to each axis: ``output_padding`` or what its rule needs."""
        numbers = zip(self.padding, self.kernel_size, self.stride, self.dilation, self.output_padding, strict=True)
        return tuple(op + crop_pair(e, k, s, d)[1] for e, k, s, d, op in numbers)

    def out_size_of(self, in_size: tuple[int, ...]) -> tuple[int, ...]:
        """Output positions per axis for ``in_size`` input positions.

        Raises:
            ValueError: an axis with no output, or a padding that its mode cannot take from so small an input.
        """
        if len(in_size) != self.dim:
            raise ValueError(f"`in_size` (={tuple(in_size)}) must have one value per axis ({self.dim}).")
        for axis, size in enumerate(in_size):
            if size < 1:
                raise ValueError(f"`input` size (={size}) on spatial axis {axis} must be at least 1; use 1 or more.")
        pads = self.pads(in_size)
        if self.transposed:
            return self._scattered_size(in_size, pads)
        sizes = []
        for axis, (size, (before, after)) in enumerate(zip(in_size, pads, strict=True)):
            span = self.span[axis]
            if size + before + after < span:
                least = max(span - before - after, 1)
                raise ValueError(
                    f"`input` size (={size}) on spatial axis {axis} is too small for a kernel that spans {span} with "
                    f"padding {(before, after)}; use {least} or more."
                )
            self._check_mode(axis, size, max(before, after))
            sizes.append((size + before + after - span) // self.stride[axis] + 1)
        return tuple(sizes)

    def _scattered_size(self, in_size: tuple[int, ...], pads: tuple[Pair, ...]) -> tuple[int, ...]:
        sizes = []
        appended = self.appended
        for axis, (size, (before, after)) in enumerate(zip(in_size, pads, strict=True)):
            out = (size - 1) * self.stride[axis] + self.span[axis] + appended[axis] - before - after
            if out < 1:
                raise ValueError(
                    f"`padding` (={(before, after)}) crops everything that an `input` of size (={size}) on spatial "
                    f"axis {axis} produces; use a total of {max(before + after + out - 1, 0)} or less."
                )
            sizes.append(out)
        return tuple(sizes)

    def _check_mode(self, axis: int, size: int, most: int) -> None:
        allowed = {"reflect": size - 1, "circular": size}.get(self.padding_mode)
        if allowed is not None and most > allowed:
            raise ValueError(
                f"`padding` (={most}) on spatial axis {axis} is too large for `padding_mode` (={self.padding_mode!r}) "
                f"and an input of size {size}; use {allowed} or less."
            )

    @property
    def out_size(self) -> tuple[int, ...]:
        """Output positions per axis, for a problem whose input size is known."""
        if self.in_size is None:
            raise ValueError("`in_size` (=None) must be known for an output size; use at(in_size).")
        return self.out_size_of(self.in_size)

    def output_padding_for(self, in_size: tuple[int, ...], out_size: Any) -> tuple[int, ...]:
        """The ``output_padding`` that makes a transposed problem reach ``out_size``.

        Raises:
            ValueError: ``out_size`` is out of reach; the text names the legal range.
        """
        wanted = per_axis("output_size", out_size, self.dim, 1)
        for axis, entry in enumerate(self.padding):
            if isinstance(entry, str) and entry != "valid":
                raise ValueError(
                    f"`output_size` (={wanted}) cannot be asked of `padding` (={entry!r}) on axis {axis}, which "
                    "fixes the output size; use a number for `padding`."
                )
        least = replace(self, output_padding=(0,) * self.dim).out_size_of(in_size)
        most = tuple(low + max(s, d) - 1 for low, s, d in zip(least, self.stride, self.dilation, strict=True))
        if any(not low <= w <= high for low, w, high in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"`output_size` (={wanted}) is not reachable from {tuple(in_size)}; use {least} (output_padding=0) "
                f"to {most} (output_padding={tuple(h - low for low, h in zip(least, most, strict=True))})."
            )
        return tuple(w - low for w, low in zip(wanted, least, strict=True))

    def __str__(self) -> str:
        from .text import problem_text

        return problem_text(self)

    @classmethod
    def parse(cls, text: str) -> ConvProblem:
        """Return the problem whose string is ``text``."""
        from .text import parse_problem

        return parse_problem(text)
