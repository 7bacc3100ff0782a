# SPDX-License-Identifier: Apache-2.0
"""Small networks of random steps and numbers, and the comparison of a network with its faster one."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

import omniconv
from tolerance import assert_close

SIZES = {1: 13, 2: 9, 3: 6}
X = (2, 3, 7, 9)  # the shape of a few pictures


def conv(inputs=3, outputs=8, size=3, **options):
    """A convolution of pictures that keeps their size."""
    return nn.Conv2d(inputs, outputs, size, **({"padding": size // 2} | options))


def norm(channels, dim=2, **options):
    """A batch norm with statistics that are not those of a new one."""
    made = getattr(nn, f"BatchNorm{dim}d")(channels, **options)
    for tensor in (made.running_mean, made.bias):
        if tensor is not None:
            nn.init.normal_(tensor)
    for tensor in (made.running_var, made.weight):
        if tensor is not None:
            nn.init.uniform_(tensor, 0.5, 2)
    return made.eval()


def block():
    """A convolution with a norm and an activation."""
    return nn.Sequential(conv(), norm(8), nn.ReLU())


class Calls(nn.Module):
    """A network whose forward is a function of it and its input; its parts are attributes."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


class CallsTwo(Calls):
    """The same of two inputs, the second of which may be left out."""

    def forward(self, x, other=None):
        return self.function(self, x, other)


def distances(net, fast, *given, **named):
    """How far the network and the faster one are from float64, and what rounding allows the latter."""

    def own(value):
        return value.clone() if isinstance(value, torch.Tensor) else value

    def wide(value):
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else own(value)

    with torch.no_grad():
        theirs = net(*pytree.tree_map(own, given), **pytree.tree_map(own, named))
        ours = fast(*pytree.tree_map(own, given), **pytree.tree_map(own, named))
        exact = copy.deepcopy(net).double()(*pytree.tree_map(wide, given), **pytree.tree_map(wide, named))
    flat = [pytree.tree_flatten(value) for value in (exact, theirs, ours)]
    assert flat[1][1] == flat[2][1]
    found = []
    for leaves in zip(*(leaves for leaves, _ in flat), strict=True):
        if not isinstance(leaves[1], torch.Tensor):
            assert leaves[1] == leaves[2]
            continue
        right, old, new = (leaf.detach() for leaf in leaves)
        assert (new.dtype, new.shape) == (old.dtype, old.shape)
        assert torch.equal(old.isfinite(), new.isfinite())
        if old.numel() == 0:
            continue
        eps, largest = torch.finfo(old.dtype).eps, float(right.abs().max())
        # Of a network in float64 nothing says how far rounding goes where numbers of about 1 cancel
        largest = max(largest, 1.0) if old.dtype == torch.float64 else largest
        far, before = (float((value.double() - right).abs().max()) for value in (new, old))
        found.append((far, before, 8 * before + 64 * eps * largest))
    return found


def assert_same(net, fast, *given, **named):
    """Fail unless both are as far from float64 as rounding explains."""
    __tracebackhide__ = True
    for far, before, allowed in distances(net, fast, *given, **named):
        assert far <= allowed, f"{far:.2e} from float64, where {allowed:.2e} is rounding; the network is {before:.2e}"


def accelerated(net, *example, changes=None, **options):
    """The faster network, which must differ from the network, and give the same at each of four calls."""
    __tracebackhide__ = True
    fast = omniconv.accelerate(net, example, seconds=0, **options)
    report = fast.report
    assert report.refused == ""
    assert report.changes
    layers = [entry.layer for entry in report.changes]
    assert changes is None or layers == changes, layers
    for _ in range(4):  # from the third on it may be replayed
        assert_same(net, fast, *example)
    return fast


def assert_steps(net, fast, calls=5):
    """Fail unless both give the same from one call to the next, whatever they remember."""
    __tracebackhide__ = True
    for _ in range(calls):
        x = torch.randn(X)
        with torch.no_grad():
            assert_close(fast(x.clone()), net(x.clone()))


class Drawn(nn.Module):
    """Steps in a row, each by its name and numbers; a tensor may be kept and added later."""

    def __init__(self, dim, channels, steps):
        super().__init__()
        self.dim, self.channels, self.steps = dim, channels, steps
        self.parts = nn.ModuleDict()
        self.numbers = nn.ParameterDict()
        for at, (kind, options) in enumerate(steps):
            if kind == "module":
                self.parts[str(at)] = options
            elif kind in ("scale", "shift", "unscale", "unshift"):
                self.numbers[str(at)] = nn.Parameter(options)

    def forward(self, x):
        kept = x
        for at, (kind, options) in enumerate(self.steps):
            part = self.parts[str(at)] if kind == "module" else None
            number = self.numbers.get(str(at), None)
            if part is not None:
                x = part(x)
            elif kind == "keep":
                kept = x
            elif kind == "add":
                x = options(x, kept)
            else:
                x = STEPS[kind](x, options if number is None else number)
        return x


STEPS = {
    "call": lambda x, function: function(x),
    "scale": lambda x, number: x * number,
    "shift": lambda x, number: number + x,
    "unscale": lambda x, number: x.div(number),
    "unshift": lambda x, number: torch.sub(number, x),
    "times": lambda x, number: x * number,
    "plus": torch.add,
    "from": lambda x, number: number - x,
    "over": lambda x, number: x / number,
    "twice": lambda x, number: x.add(number, alpha=2),
    "pad": F.pad,
    "frame": lambda x, pads: F.pad(x, pads, value=0.5),
}
ADDS = [
    lambda x, kept: x + kept,
    lambda x, kept: kept + x,
    lambda x, kept: torch.add(kept, x),
    lambda x, kept: x.add_(kept),
    lambda x, kept: kept.add_(x),
    lambda x, kept: x.add(kept, alpha=2),
    lambda x, kept: x - kept,
    lambda x, kept: x * kept,
    lambda x, kept: x + kept + x,
]
ACTIVATIONS = [
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    lambda: nn.ReLU6(inplace=True),
    lambda: nn.Hardtanh(0.0, 6.0),
    nn.SiLU,
    nn.GELU,
    lambda: nn.GELU("tanh"),
    nn.Hardswish,
    nn.Tanh,
    lambda: nn.LeakyReLU(0.1),
    nn.Identity,
    nn.Dropout,
    lambda: nn.Dropout(inplace=True),
]
FUNCTIONS = [
    F.relu,
    torch.relu_,
    lambda x: x.relu(),
    F.relu6,
    F.silu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.hardswish,
    lambda x: F.hardtanh(x, 0, 6),
    lambda x: F.hardtanh(x, -1, 6),
    lambda x: F.dropout(x, 0.5, training=False),
    torch.sigmoid,
]


class Mixed(nn.Module):
    """A linear map of the channels, brought to the last axis and back."""

    def __init__(self, dim, inputs, outputs):
        super().__init__()
        self.map = nn.Linear(inputs, outputs)
        self.there, self.back = (0, *range(2, dim + 2), 1), (0, dim + 1, *range(1, dim + 1))

    def forward(self, x):
        return self.map(x.permute(self.there)).permute(self.back)


@st.composite
def networks(draw):
    """A network in eval, the size of its input, and how many convolutions and linear maps it has."""
    torch.manual_seed(0)  # so that the same draws are the same network
    dim = draw(st.sampled_from([1, 2, 2, 2, 3]))
    start = draw(st.sampled_from([4, 6]))
    per_axis = dim * (st.integers(1, 3),)
    shape, steps, maps = (start, *dim * [SIZES[dim]]), [], 0
    kinds = ["conv", "conv", "conv", "norm", "norm", "number", "activation", "function", "keep", "add", "add", "pad"]
    for at in range(draw(st.integers(2, 9))):
        channels = shape[0]
        kind = "conv" if at == 0 else draw(st.sampled_from([*kinds, "linear", "constant"]))
        if kind == "conv":
            groups = draw(st.sampled_from([1, 1, 1, 2, channels]))
            outputs = draw(st.sampled_from([channels, channels, 2 * channels if channels < 12 else channels // 2, 4]))
            outputs += -outputs % groups
            size = draw(st.one_of(st.just(dim * (3,)), st.just(dim * (1,)), st.tuples(*per_axis)))
            padding = draw(
                st.one_of(st.just([k // 2 for k in size]), st.lists(st.integers(0, 2), min_size=dim, max_size=dim))
            )
            stride = draw(st.sampled_from([1, 1, 1, 2]))
            dilation = draw(st.sampled_from([1, 1, 2]))
            bias, mode = draw(st.booleans()), draw(st.sampled_from(["zeros", "zeros", "zeros", "replicate"]))
            more = {"stride": stride, "padding": tuple(padding), "dilation": dilation, "groups": groups, "bias": bias}
            if draw(st.integers(0, 7)) == 0:
                step = getattr(nn, f"ConvTranspose{dim}d")(channels, outputs, size, **more)
            else:
                step = getattr(nn, f"Conv{dim}d")(channels, outputs, size, **more, padding_mode=mode)
            steps.append(("module", step))
            maps += 1
        elif kind == "linear":
            steps.append(("module", Mixed(dim, channels, draw(st.sampled_from([channels, 4])))))
            maps += 1
        elif kind == "norm":
            # ATen sums the statistics of many positions in another order where channels lie innermost: 1e-3 of float32
            options = {"affine": draw(st.booleans()), "track_running_stats": dim > 1 or draw(st.integers(0, 3)) > 0}
            options |= {} if options["track_running_stats"] else {"eps": 0.1}
            steps.append(("module", norm(channels, dim, **options)))
        elif kind == "number":
            shapes = [(), (1,), (channels, *dim * [1]), (1, channels, *dim * [1]), (*dim * [1],)]
            name = draw(st.sampled_from(["scale", "shift", "unscale", "unshift"]))
            steps.append((name, torch.rand(draw(st.sampled_from(shapes))) + 0.5))
        elif kind == "constant":
            name = draw(st.sampled_from(["times", "plus", "from", "over", "twice"]))
            steps.append((name, draw(st.sampled_from([2, 0.5, -1.5, 3]))))
        elif kind == "activation":
            steps.append(("module", draw(st.sampled_from(ACTIVATIONS))()))
        elif kind == "function":
            steps.append(("call", draw(st.sampled_from(FUNCTIONS))))
        elif kind == "pad":
            pads = draw(st.lists(st.integers(0, 2), min_size=2, max_size=2 * dim).filter(lambda p: len(p) % 2 == 0))
            steps.append((draw(st.sampled_from(["pad", "pad", "frame"])), pads))
        elif kind == "keep":
            steps.append(("keep", None))
        elif kind == "add":
            steps.append(("add", draw(st.sampled_from(ADDS))))
        found = shape_of(dim, start, steps)
        if found is None:  # it does not fit, as sums of other shapes do not
            steps.pop()
            maps -= kind in ("conv", "linear")
        else:
            shape = found
    net = Drawn(dim, start, steps).eval()
    return net, (start, *dim * [SIZES[dim]]), maps


def shape_of(dim, channels, steps):
    """The shape of a sample behind the steps, or None where they do not take it."""
    try:
        with torch.no_grad():
            found = Drawn(dim, channels, steps).eval()(torch.zeros(2, channels, *dim * [SIZES[dim]]))
    except (RuntimeError, ValueError):
        return None
    return tuple(found.shape[1:]) if found.numel() and found.dim() == dim + 2 else None
