# SPDX-License-Identifier: Apache-2.0
"""Random graphs: the traced interval is the support of the Jacobian, found in float64 with positive weights.

With positive weights nothing cancels, and a maximum is differentiated as a mean, so every input that can matter has a
gradient. Broken rules, kept here, must be rejected by the same check.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from torch import nn

from omniconv.analysis.field import reads
from omniconv.analysis.field import rules as field_rules
from omniconv.analysis.field.receptive_field import receptive_field
from omniconv.analysis.field.rules_windows import channels_mixed, windowed

CHANNELS = 2
SIZES = {1: (160,), 2: (96, 90)}
SMALLEST = 16
FAR = {1: 40, 2: 20}  # crops may bring zeros of the padding this far into the image


class Graph(nn.Module):
    """A list of operations, each a tuple of a name and numbers, on a map with `dim` axes."""

    def __init__(self, dim, steps):
        super().__init__()
        self.dim, self.steps = dim, steps
        self.smooth = False
        self.generator = torch.Generator()

    def forward(self, x):
        self.generator.manual_seed(0)
        return self.run(x, self.steps)

    def run(self, x, steps):
        for name, *numbers in steps:
            x = getattr(self, name)(x, *numbers)
        return x

    def weight(self, out, into, *kernel):
        return torch.rand(out, into, *kernel, generator=self.generator, dtype=torch.float64) + 0.5

    def conv(self, x, k, s, d, p, groups):
        w = self.weight(CHANNELS, CHANNELS // groups, *[k] * self.dim)
        return (F.conv1d, F.conv2d)[self.dim - 1](x, w, None, s, p, d, groups)

    def scatter(self, x, k, s, d, p, extra, groups):
        w = self.weight(CHANNELS, CHANNELS // groups, *[k] * self.dim)
        return (F.conv_transpose1d, F.conv_transpose2d)[self.dim - 1](x, w, None, s, p, extra, groups, d)

    def maximum(self, x, k, s, d, p, ceil):
        found = (F.max_pool1d, F.max_pool2d)[self.dim - 1](x, k, s, p, d, ceil)
        if not self.smooth:
            return found
        room = [0, k * d + s] * self.dim
        w = torch.ones(CHANNELS, 1, *[k] * self.dim, dtype=x.dtype)
        mean = (F.conv1d, F.conv2d)[self.dim - 1](F.pad(x, room), w, None, s, p, d, CHANNELS)
        return mean[(..., *[slice(n) for n in found.shape[2:]])]

    def average(self, x, k, s, p, ceil):
        return (F.avg_pool1d, F.avg_pool2d)[self.dim - 1](x, k, s, p, ceil)

    def resize(self, x, factor, mode):
        mode = {"linear": ("linear", "bilinear")[self.dim - 1]}.get(mode, mode)
        return F.interpolate(x, scale_factor=factor, mode=mode)

    def pad(self, x, before, after):
        return F.pad(x, [before, after] * self.dim)

    def strided(self, x, start, step):
        return x[(..., *[slice(start, None, step)] * self.dim)]

    def mirrored(self, x):
        return x.flip(-1)

    def patches(self, x, p):
        """Patches of p positions folded into channels and mixed by a linear layer."""
        length = x.shape[-1] // p * p
        parts = x[..., :length].unflatten(-1, (length // p, p)).movedim(-1, 2).flatten(1, 2)
        return torch.einsum("oc,nc...->no...", self.weight(CHANNELS, CHANNELS * p), parts)

    def shuffled(self, x, r):
        """Channels spread out over r positions each."""
        more = torch.einsum("oc,nc...->no...", self.weight(CHANNELS * r, CHANNELS), x)
        return more.unflatten(1, (CHANNELS, r)).movedim(2, -1).flatten(-2)

    def windows(self, x, w):
        """Windows of w positions that see each other, beside the positions themselves."""
        length = x.shape[-1] // w * w
        x = x[..., :length]
        parts = x.unflatten(-1, (length // w, w))
        seen = parts.mean(-1, keepdim=True).expand_as(parts) if self.smooth else parts.softmax(-1)
        return x + seen.flatten(-2)

    def both(self, x, one, two, join):
        a, b = self.run(x, one), self.run(x, two)
        size = [slice(min(m, n)) for m, n in zip(a.shape[2:], b.shape[2:], strict=True)]
        a, b = a[(..., *size)], b[(..., *size)]
        if join == "add":
            return a + b
        return torch.einsum("oc,nc...->no...", self.weight(CHANNELS, 2 * CHANNELS), torch.cat([a, b], 1))


@st.composite
def convolutions(draw, stride=None):
    k, d = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    s = draw(st.integers(1, 2)) if stride is None else stride
    return ("conv", k, s, d, draw(st.integers(0, 2)), draw(st.sampled_from([1, CHANNELS])))


@st.composite
def scatterings(draw, holes=True):
    s = draw(st.integers(1, 3))
    k, d = (draw(st.integers(1, 4)), draw(st.integers(1, 2))) if holes else (draw(st.integers(s, 4)), 1)
    extra = draw(st.integers(0, max(s, d) - 1))
    return ("scatter", k, s, d, draw(st.integers(0, d * (k - 1))), extra, draw(st.sampled_from([1, CHANNELS])))


@st.composite
def poolings(draw):
    k = draw(st.integers(1, 4))
    s, p, ceil = draw(st.integers(1, 2)), draw(st.integers(0, k // 2)), draw(st.booleans())
    return draw(st.sampled_from([("maximum", k, s, draw(st.integers(1, 3)), p, ceil), ("average", k, s, p, ceil)]))


@st.composite
def branches(draw):
    stride = draw(st.integers(1, 2))
    one = [*draw(st.lists(convolutions(stride=1), max_size=2)), draw(convolutions(stride=stride))]
    two = [draw(convolutions(stride=stride))]
    return ("both", one, two, draw(st.sampled_from(["add", "cat"])))


resizings = st.one_of(
    st.tuples(st.just("resize"), st.sampled_from([2, 3, 1.5, 0.5]), st.sampled_from(["nearest", "linear"])),
    st.tuples(st.just("resize"), st.sampled_from([2, 3]), st.just("nearest-exact")),
)
moves = st.one_of(
    st.tuples(st.just("pad"), st.integers(-2, 2), st.integers(-2, 2)),
    st.tuples(st.just("strided"), st.integers(0, 2), st.integers(1, 2)),
    st.just(("mirrored",)),
    st.tuples(st.just("patches"), st.integers(2, 3)),
    st.tuples(st.just("shuffled"), st.integers(2, 3)),
    st.tuples(st.just("windows"), st.integers(2, 4)),
)


def graphs(longest, holes=True):
    step = st.one_of(convolutions(), scatterings(holes), poolings(), branches(), resizings, moves)
    return st.lists(step, min_size=1, max_size=longest)


def support(graph, x, axis, place):
    """First and last input position with a gradient at an output position; None where there is none."""
    graph.smooth = True
    x = x.clone().requires_grad_()
    out = graph(x)
    (gradient,) = torch.autograd.grad(out[(..., *place)].sum(), x)
    energy = gradient.abs().sum([d for d in range(x.dim()) if d != axis + 2])
    found = (energy > energy.max() * 1e-12).nonzero().flatten().tolist()
    return (found[0], found[-1]) if found else None


def check(dim, steps):
    """Compare traced intervals with supports at outputs in the middle; return how many were compared."""
    graph = Graph(dim, steps)
    x = torch.ones(1, CHANNELS, *SIZES[dim], dtype=torch.float64)
    try:
        sizes = graph(x).shape[2:]
    except RuntimeError:  # a kernel larger than what is left of the image
        return 0
    if min(sizes) < SMALLEST:
        return 0
    field = receptive_field(graph, x)
    compared = 0
    for axis in range(dim):
        for shift in range(-3, 4) if dim == 1 else (-1, 0, 1):
            place = [n // 2 + shift * (a == axis) for a, n in enumerate(sizes)]
            if not all(0 <= p < n for p, n in zip(place, sizes, strict=True)):
                continue
            expected = support(graph, x, axis, place)
            far = FAR[dim], SIZES[dim][axis] - FAR[dim]
            if expected is None or (far[0] <= expected[0] and expected[1] < far[1]):
                spans = [field.interval(a, p) for a, p in enumerate(place)]
                assert (None if None in spans else spans[axis]) == expected, (steps, axis, place, str(field))
                compared += 1
    return compared


@pytest.mark.pitfall(46)
@settings(max_examples=150)
@given(graphs(5))
@example([("conv", 4, 2, 1, 1, 1), ("scatter", 4, 2, 1, 1, 0, 1)])
@example([("scatter", 2, 2, 3, 0, 0, 1), ("conv", 3, 1, 2, 0, 1)])
def test_one_axis(steps):
    assume(check(1, steps))


@pytest.mark.pitfall(46)
@settings(max_examples=40)
@given(graphs(3, holes=False))  # where a phase reads nothing along one axis, the others are an upper bound
def test_two_axes(steps):
    assume(check(2, steps))


def without_dilation(call):
    """Taps side by side, whatever the dilation."""
    return _convolved(call, lambda k, s, d, p: reads.window(k, s, 1, p))


def scattering_as_gathering(call):
    """A transposed convolution taken for an ordinary one."""
    return _convolved(call, reads.window)


def without_padding(call):
    """Taps from the output's own position on."""
    return _convolved(call, lambda k, s, d, p: reads.window(k, s, d, 0))


def without_merging(call):
    """Only the first branch."""
    return next(f for f in map(call.fields, call.tensors()) if f.depends)


def without_ceil_phase(call):
    """A resize that forgets that outputs alternate."""
    field = call.first
    taps = [reads.point(0)] * (len(field.dims) - 2)
    return windowed(field, taps, call.shape[2:], call.why)


def _convolved(call, make):
    kernel = call["weight"].shape[2:]
    numbers = zip(kernel, call["stride"], call["dilation"], call["padding"], strict=True)
    field = channels_mixed(call.field("input"), call.shape[1], call["groups"], call.why)
    return windowed(field, [make(*n) for n in numbers], call.shape[2:], call.why)


BROKEN = [
    ("aten::convolution", without_dilation, [("conv", 3, 1, 2, 2, 1)]),
    ("aten::convolution", scattering_as_gathering, [("conv", 4, 2, 1, 1, 1), ("scatter", 4, 2, 1, 1, 0, 1)]),
    ("aten::convolution", without_padding, [("conv", 3, 1, 1, 1, 1)]),
    ("aten::add", without_merging, [("both", [("conv", 1, 1, 1, 0, 1)], [("conv", 3, 1, 1, 1, 1)], "add")]),
    ("aten::upsample_nearest1d", without_ceil_phase, [("resize", 2, "nearest")]),
]


@pytest.mark.parametrize(("operator", "broken", "steps"), BROKEN, ids=[b.__name__ for _, b, _ in BROKEN])
def test_rejects_a_broken_rule(monkeypatch, operator, broken, steps):
    assert check(1, steps) > 0
    monkeypatch.setitem(field_rules.RULES, operator, broken)
    with pytest.raises(AssertionError):
        check(1, steps)
