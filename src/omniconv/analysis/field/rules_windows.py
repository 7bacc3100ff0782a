# SPDX-License-Identifier: Apache-2.0
"""Rules of operators that read windows: convolution, pooling, resizing, padding, unfolding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from omniconv.analysis.field import reads
from omniconv.analysis.field.interval import Reads
from omniconv.analysis.field.layout import Field, Slot, plain
from omniconv.analysis.field.moves import reshaped
from omniconv.analysis.field.rules import Call, rule


def _each(value: Any, count: int) -> list[int]:
    """A number or a short list as one number per axis."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * count if len(values) == 1 else values


def windowed(field: Field, windows: Sequence[Reads], sizes: Sequence[int], why: str) -> Field:
    """Windows over the last dims, one per axis, leaving ``sizes`` positions."""
    first = len(field.dims) - len(windows)
    for d, (window, size) in enumerate(zip(windows, sizes, strict=True), first):
        field = field.windowed(d, window, size, why)
    return field


def channels_mixed(field: Field, out_channels: int, groups: int, why: str) -> Field:
    """Dim 1 mixed within each group and replaced by ``out_channels``."""
    n, c, *sizes = field.shape
    split = reshaped(field, (n, groups, c // groups, *sizes), why).reduced((2,), why)
    return split.with_dim(1, (*split.dims[1], *plain(out_channels // groups)))


@rule("convolution", "_convolution")
def _convolution(call: Call) -> Field:
    """Taps per axis; a kernel that is itself computed from the input adds all that it depends on."""
    scatters = list(call.arguments.values())[6]
    kernel = list(call["weight"].shape[2:])
    count = len(kernel)
    stride, padding, dilation = (_each(call[name], count) for name in ("stride", "padding", "dilation"))
    make = reads.transposed if scatters else reads.window
    windows = [make(*numbers) for numbers in zip(kernel, stride, dilation, padding, strict=True)]
    field = channels_mixed(call.field("input", "self"), call.shape[1], call["groups"], call.why)
    weight = call.fields(call["weight"])
    return call.merged(
        windowed(field, windows, call.shape[2:], call.why), weight.reduced(range(len(weight.dims)), call.why)
    )


@rule("torchvision::deform_conv2d")
def _deformable(call: Call) -> Field:
    """The undeformed taps, and what offsets and mask depend on; the offsets themselves are unbounded."""
    kernel = list(call["weight"].shape[2:])
    numbers = [[call[f"{name}_{side}"] for side in "hw"] for name in ("stride", "dilation", "pad")]
    windows = [reads.window(*each) for each in zip(kernel, *numbers, strict=True)]
    field = channels_mixed(call.field("input"), call.shape[1], 1, call.why)
    taps = windowed(field, windows, call.shape[2:], call.why)
    inputs = [call.fields(call[name]) for name in ("offset", "mask")[: 2 if call["use_mask"] else 1]]
    found = call.merged(taps, *(f.reduced((1,), call.why, keepdim=True) for f in inputs))
    return unbounded(found, field.axes_in((2, 3)), call.why)


def unbounded(field: Field, axes: Sequence[int], why: str) -> Field:
    """``field`` with taps that may be moved anywhere along ``axes``."""
    found = field.marked(axes, unbounded=True)
    return found.noted(f"{why} reads where offsets point: its field has no bound, and the size is that without offsets")


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool1d",
      "max_pool2d", "max_pool3d")  # fmt: skip
def _pooling(call: Call) -> Field:
    count = int(call.name[call.name.index("pool") + 4])
    kernel = _each(call["kernel_size"], count)
    stride = _each(call.get("stride") or kernel, count)
    padding = _each(call["padding"], count)
    dilation = _each(call.arguments.get("dilation", 1), count)
    windows = [reads.window(*numbers) for numbers in zip(kernel, stride, dilation, padding, strict=True)]
    return windowed(call.first, windows, call.shape[-count:], call.why)


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
      "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d")  # fmt: skip
def _adaptive_pooling(call: Call) -> Field:
    """Windows whose size follows from the input's; one output is a mean of everything."""
    field, count = call.first, len(call["output_size"])
    for d in range(len(field.dims) - count, len(field.dims)):
        size, out = field.shape[d], call.shape[d]
        if out == size:
            continue
        if out == 1:
            field = field.reduced((d,), call.why, keepdim=True)
        else:
            axes = field.axes_in((d,))
            field = field.windowed(d, reads.adaptive(size, out), out, call.why)
            words = f"{call.why} pools {size} positions to {out}: the field holds for this input size"
            field = field.noted(words) if axes else field
    return field


_RADIUS = {"linear": 1, "cubic": 2, "lanczos": 3}


@rule(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "_upsample_lanczos2d_aa",
)  # fmt: skip
def _resizing(call: Call) -> Field:
    field, aligned, antialias = call.first, bool(call.get("align_corners")), call.name.endswith("_aa")
    radius = next((r for name, r in _RADIUS.items() if name in call.name), 0)
    for d, factor in enumerate(_factors(call, len(field.dims) - 2), 2):
        size, out = field.shape[d], call.shape[d]
        scale = 1 / Fraction(factor).limit_denominator(1 << 12) if factor else Fraction(size, out)
        if not radius:
            taps = reads.nearest(scale, exact="exact" in call.name)
        elif aligned:
            taps = reads.corners(size, out, radius, antialias=antialias)
        else:
            taps = reads.interpolated(scale, radius, antialias=antialias)
        words = f"{call.why} aligns corners, so its positions drift by up to one input: the field is an upper bound"
        field = field.noted(words) if aligned and size != out and field.axes_in((d,)) else field
        field = field.windowed(d, taps, out, call.why)
    return field


def _factors(call: Call, count: int) -> Sequence[float | None]:
    """The scale factor given for each axis; None where sizes were given."""
    if call.arguments.get("scale_factors"):
        return [float(f) for f in call["scale_factors"]]
    names = ["scales"] if count == 1 else [f"scales_{side}" for side in "dhw"[-count:]]
    return [call.arguments.get(name) for name in names]


@rule("max_unpool2d", "max_unpool3d")
def _unpooling(call: Call) -> Field:
    """Values go where the indices of the pooling say, near the place of the same relative position."""
    count = int(call.name[-2])
    taps = [
        reads.nearest(Fraction(*sizes)) for sizes in zip(call.first.shape[-count:], call.shape[-count:], strict=True)
    ]
    field = windowed(call.first, taps, call.shape[-count:], call.why)
    return unbounded(field, field.axes_in(range(len(field.dims) - count, len(field.dims))), call.why)


@rule("constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
      "replication_pad2d", "replication_pad3d")  # fmt: skip
def _padding(call: Call) -> Field:
    """A shift; what a border holds is left out, as it is for zeros inside a convolution."""
    field = call.first
    amounts = call.get("pad", "padding")
    for k, before in enumerate(amounts[::2]):
        d = len(field.dims) - 1 - k
        after = amounts[2 * k + 1]
        if before or after:
            field = field.windowed(d, reads.point(-before), field.shape[d] + before + after, call.why)
    return field


@rule("im2col")
def _unfolding(call: Call) -> Field:
    """(N, C, H, W) to (N, C K, P): every window in a column."""
    kernel, dilation, pad, stride = (_each(call[n], 2) for n in ("kernel_size", "dilation", "padding", "stride"))
    field, spans = call.first, [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    sizes = [(n + 2 * p - e) // s + 1 for n, p, e, s in zip(field.shape[-2:], pad, spans, stride, strict=True)]
    windows = [reads.window(*numbers) for numbers in zip(kernel, stride, dilation, pad, strict=True)]
    found = windowed(field, windows, sizes, call.why)
    *batch, channels, rows, columns = found.dims
    return found.with_dims([*batch, (*channels, Slot(kernel[0] * kernel[1])), (*rows, *columns)])


@rule("col2im")
def _folding(call: Call) -> Field:
    """(N, C K, P) to (N, C, H, W): every column added where its window lies."""
    kernel, dilation, pad, stride = (_each(call[n], 2) for n in ("kernel_size", "dilation", "padding", "stride"))
    out = call.shape[-2:]
    sizes = [(out[a] + 2 * pad[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in range(2)]
    n, _, _ = call.first.shape
    field = reshaped(call.first, (n, call.shape[1], kernel[0] * kernel[1], *sizes), call.why).reduced((2,), call.why)
    windows = [reads.transposed(*numbers) for numbers in zip(kernel, stride, dilation, pad, strict=True)]
    return windowed(field, windows, out, call.why)
