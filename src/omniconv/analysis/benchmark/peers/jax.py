# SPDX-License-Identifier: Apache-2.0
"""JAX on the CPU, jitted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor

from omniconv.analysis.benchmark.operands import RESIDUAL, Operands
from omniconv.analysis.benchmark.peers import Call, Unavailable
from omniconv.analysis.benchmark.peers.plain import steps_of
from omniconv.analysis.benchmark.problems import Benchmark
from omniconv.core.benchmarks import Plain
from omniconv.core.problem import ConvProblem

# XLA has no depthwise kernel for the CPU. A sum of shifted products, which it fuses, took 1.0 ms where its convolution
# took 26 (K=7×7 over 96×56×56); each tap lengthens the compilation, which takes about a second at this many.
MOST_SHIFTS = 49
SLOWEST = 1.0


def prepare(benchmark: Benchmark, operands: Operands, threads: int) -> Call:
    """The problem's ordinary convolutions as one jitted function, with its gradients where the benchmark trains.

    Raises:
        Unavailable: a call takes more than ``SLOWEST`` seconds.
    """
    # Read once, when XLA makes its threads.
    os.environ.setdefault("PJRT_NPROC", str(threads))
    import jax

    last = benchmark.layout == "cl"
    names = [name for name, t in zip(benchmark.family.tensor_names, operands.tensors, strict=True) if t is not None]
    names += [RESIDUAL] if benchmark.add else []
    forward = _forward(benchmark, names, last=last)
    # The places of what has positions among the leaves: the input, and what is added.
    places = {0, len(names) - 1} if benchmark.add else {0}
    leaves = (t.detach() for t in operands.leaves)
    arrays = [_array(_stored(t, last=last and at in places)) for at, t in enumerate(leaves)]
    if operands.gradient is None:
        jitted = jax.jit(lambda *given: (forward(*given),))
    else:
        arrays.append(_array(_stored(operands.gradient, last=last)))

        def train(*given: Any) -> tuple[Any, ...]:
            output, back = jax.vjp(forward, *given[:-1])
            return output, *back(given[-1])

        jitted = jax.jit(train)

    def run() -> Any:
        return jax.block_until_ready(jitted(*arrays))

    run()
    begin = time.perf_counter()
    run()
    if (seconds := time.perf_counter() - begin) > SLOWEST:
        raise Unavailable(f"a call takes {seconds:.1f} s")
    moved = {0, *(at + 1 for at in places)} if last else set()
    return Call(run, lambda outputs: _read(outputs, moved))


def _forward(benchmark: Benchmark, names: list[str], *, last: bool) -> Callable[..., Any]:
    import jax
    from jax import numpy as jnp

    steps, activation = steps_of(benchmark.problem), _activation(benchmark.activation)

    def run(*given: Any) -> Any:
        tensors = dict(zip(names, given, strict=True))
        x = given[0]
        for at, step in enumerate(steps):
            weight = tensors[step.weight]
            if step.varies:
                weight = _varied(step, weight)
            elif step.softmax:
                weight = jax.nn.softmax(weight.reshape(weight.shape[0], -1), 1).reshape(weight.shape)
            if step.repeat > 1 and not step.varies:
                weight = jnp.expand_dims(jnp.repeat(weight, step.repeat, 0), 1)
            x = (_shifted if step.varies else _convolved)(step.problem, x, weight, last=last)
            if step.bias:
                bias = tensors[step.bias]
                x = x + (bias if last else bias.reshape(-1, *[1] * step.problem.dim))
            if benchmark.add and at == len(steps) - 1:
                x = x + tensors[RESIDUAL]
            x = activation(x)
        return x

    return run


def _activation(word: str) -> Callable[[Any], Any]:
    import jax

    if word == "gelu":
        return partial(jax.nn.gelu, approximate=False)
    return getattr(jax.nn, "hard_swish" if word == "hardswish" else word) if word else lambda x: x


def _convolved(problem: ConvProblem, x: Any, weight: Any, *, last: bool) -> Any:
    from jax import lax

    depthwise = problem.groups == problem.in_channels == problem.out_channels
    if depthwise and not problem.transposed and prod(problem.kernel_size) <= MOST_SHIFTS:
        return _shifted(problem, x, weight, last=last)
    axes = "DHW"[-problem.dim :]
    data, strides, pads, holes = (f"N{axes}C" if last else f"NC{axes}"), problem.stride, problem.pads(), None
    if problem.transposed:
        weight, pads = _turned(problem, weight)
        strides, holes = (1,) * problem.dim, problem.stride
    return lax.conv_general_dilated(
        x,
        weight,
        strides,
        pads,
        lhs_dilation=holes,
        rhs_dilation=problem.dilation,
        dimension_numbers=(data, f"OI{axes}", data),
        feature_group_count=problem.groups,
    )


def _turned(problem: ConvProblem, weight: Any) -> tuple[Any, tuple[tuple[int, int], ...]]:
    """Weight and padding with which a convolution of the spread-out input is the transposed one."""
    from jax import numpy as jnp

    kernel = problem.kernel_size
    grouped = weight.reshape(problem.groups, -1, weight.shape[1], *kernel).swapaxes(1, 2)
    turned = jnp.flip(grouped.reshape(problem.out_channels, -1, *kernel), range(2, problem.dim + 2))
    crops = zip(problem.span, problem.pads(), problem.appended, strict=True)
    return turned, tuple((e - 1 - before, e - 1 - after + more) for e, (before, after), more in crops)


def _varied(step: Plain, weight: Any) -> Any:
    """The kernels of each channel, (c, 1, *k, n, *p), of which ``_shifted`` takes a tap at a time."""
    import jax
    from jax import numpy as jnp

    n, heads, *rest = weight.shape
    taps, positions = rest[: step.problem.dim], rest[step.problem.dim :]
    flat = weight.reshape(n, heads, -1, *positions).astype(jnp.float32)
    flat = jax.nn.softmax(flat, 2) if step.softmax else flat
    flat = jnp.moveaxis(flat.reshape(n, heads, *taps, *positions), 0, step.problem.dim + 1)
    return jnp.expand_dims(jnp.repeat(flat, step.repeat, 0), 1)


def _shifted(problem: ConvProblem, x: Any, weight: Any, *, last: bool) -> Any:
    """A depthwise convolution as a sum over its taps, accumulated in float32."""
    from jax import lax
    from jax import numpy as jnp

    first = 1 if last else 2  # of the spatial axes
    around = [(0, 0)] * x.ndim
    around[first : first + problem.dim] = problem.pads()
    wide = jnp.pad(x.astype(jnp.float32), around)
    total: Any = 0
    for tap in product(*(range(k) for k in problem.kernel_size)):
        begins, ends, steps = [0] * x.ndim, list(wide.shape), [1] * x.ndim
        for axis, (k, out) in enumerate(zip(tap, problem.out_size, strict=True)):
            at, step = first + axis, problem.stride[axis]
            begins[at] = k * problem.dilation[axis]
            ends[at], steps[at] = begins[at] + (out - 1) * step + 1, step
        w = weight[(slice(None), 0, *tap)].astype(jnp.float32)
        if w.ndim > 1:  # a kernel for each position: (c, n, *p)
            w = jnp.moveaxis(w, 0, -1 if last else 1)
        elif not last:
            w = w.reshape(-1, *[1] * problem.dim)
        total = total + lax.slice(wide, begins, ends, steps) * w
    return total.astype(x.dtype)


def _stored(tensor: Tensor, *, last: bool) -> Tensor:
    """The tensor under the shape in which it lies."""
    return tensor.movedim(1, -1) if last else tensor


def _array(tensor: Tensor) -> Any:
    from jax import numpy as jnp

    return jnp.asarray(tensor.float().contiguous().numpy(), dtype=str(tensor.dtype).removeprefix("torch."))


def _read(outputs: Any, moved: set[int]) -> tuple[Tensor, ...]:
    """Torch tensors of the original dtype: those at these places channels first, the others as they are."""
    tensors = [torch.from_numpy(array.astype("float32").__array__().copy()) for array in outputs]
    dtype = getattr(torch, str(outputs[0].dtype))
    return tuple((t.movedim(-1, 1) if at in moved else t).to(dtype) for at, t in enumerate(tensors))
