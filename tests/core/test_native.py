# SPDX-License-Identifier: Apache-2.0
"""Compiled kernels as a process meets them: asked for no more than is wanted, from several threads, again and again."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from contract.problems import COMPILED, covering, each, first_of_each_kernel, halves, present, reals, tracked
from contract.test_determinism import large
from contract.test_gradients import gradients
from omniconv import nn
from omniconv.core.library import absent
from omniconv.core.problem import ConvProblem
from omniconv.core.register import Plan
from tolerance import assert_close

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())
CHOSEN = [case for case in COMPILED if case.chosen]
PAGE = 4096

CHILDREN = """
import os, sys, torch
import multiprocessing as mp
import omniconv.functional as OF
torch.set_num_threads(2)
x, w = torch.randn(4, 32, 4096), torch.randn(32, 1, 7)
want = OF.conv1d(x, w, groups=32)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    os._exit(0 if torch.equal(OF.conv1d(x, w, groups=32), want) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a forked child computes something else"
with mp.get_context("spawn").Pool(1) as pool:
    found = pool.apply(OF.conv1d, (x, w), {"groups": 32})
assert torch.equal(found, want), "a spawned child computes something else"
print("the same in both")
"""


@pytest.mark.parametrize("wanted", range(1, 8))
@each(first_of_each_kernel(CHOSEN))
def test_only_wanted_gradients_are_computed(case, wanted, monkeypatch):
    plan, asked = Plan(case.problem), []
    tensors = halves(case.problem, torch.float32)
    leaves = [t if t is None else t.requires_grad_(bool(wanted >> at & 1)) for at, t in enumerate(tensors)]
    present_ones = sum(1 << at for at, t in enumerate(leaves) if t is not None)
    if not wanted & present_ones:
        return
    plan._overrideable, plan._recorded = None, (plan._compiled, ())  # torch's own autograd would ask without Python
    right = plan._native.call_backward
    monkeypatch.setattr(plan._native, "call_backward", lambda *a: asked.append(a[-1]) or right(*a))
    plan(*leaves).sum().backward()
    assert asked == [wanted & present_ones]
    for at, tensor in enumerate(present(leaves)):
        assert (tensor.grad is not None) == tensor.requires_grad, at


@each(covering(CHOSEN, most=3))
def test_four_threads_of_python_at_once(case):
    problem = large(case.problem)
    plan, tensors = Plan(problem), reals(problem, torch.float32)

    def call(_):
        leaves = tracked(tensors)
        output = plan(*leaves)
        return output.detach(), *gradients(output, present(leaves))

    torch.set_num_threads(2)
    try:
        want = call(None)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(call, range(12)):
                assert all(map(torch.equal, found, want))
    finally:
        torch.set_num_threads(1)


def test_forked_and_spawned_children_compute():
    result = subprocess.run([sys.executable, "-c", CHILDREN], capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout == "the same in both\n", result.stderr


def resident():
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not say what memory a process holds")
@each(first_of_each_kernel(CHOSEN))
def test_memory_does_not_grow(case):
    """A hundred thousand calls: forward, with gradients, and refused."""
    plan, tensors = Plan(case.problem), halves(case.problem, torch.float32)
    native, flat = plan._native, plan._packed(tensors)
    leaves = tracked(tensors)

    def calls(count):
        for _ in range(count):
            plan(*tensors)
        for _ in range(count // 8):
            torch.autograd.grad(plan(*leaves).sum(), present(leaves))
            with pytest.raises(RuntimeError):
                native.raw(*tensors, flat[:-1])

    calls(4_000)
    grown = []
    while not grown or (grown[-1] >= 2**20 and len(grown) < 3):  # an allocator settles, a leak goes on
        before = resident()
        calls(80_000)
        grown.append(resident() - before)
    assert grown[-1] < 2**20, grown


@each(first_of_each_kernel(CHOSEN))
def test_a_call_after_a_refusal_is_right(case):
    plan, tensors = Plan(case.problem), halves(case.problem, torch.float32)
    native, flat = plan._native, plan._packed(tensors)
    want = plan(*tensors)
    for wrong in (flat[:-1], (*flat, 1), ()):
        with pytest.raises(RuntimeError):
            native.raw(*tensors, wrong)
        assert torch.equal(native.raw(*tensors, flat), want)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("conv:n1_c4_o8_i9x9_k3x3_g4_pad1_b", "ConvolutionOverrideableBackward0"),
        ("conv:n1_c4_o4_i9_k4_g4_padcausal", "_RecordedBackward"),
        ("transposed:n1_c4_o4_i5x5_k4x4_s2x2_g4_pad1_t", "ConvolutionOverrideableBackward0"),
    ],
)
def test_torch_differentiates_what_it_has_formulas_for(text, name):
    problem = ConvProblem.parse(text)
    tensors = [t if t is None else t.requires_grad_() for t in halves(problem, torch.float32)]
    assert type(Plan(problem)(*tensors).grad_fn).__name__ == name


@each(first_of_each_kernel(CHOSEN))
def test_an_operator_under_autocast_computes_in_bfloat16_whatever_type_that_asks_for(case):
    plan, tensors = Plan(case.problem), halves(case.problem, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert plan._native.operator(*tensors, plan._packed(tensors)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.DepthwiseConv2d(8, 3, padding=1), (2, 8, 9, 9)),
        (nn.Conv2d(8, 4, 1), (2, 8, 9, 9)),
        (nn.PointwiseConv2d(8, 4, norm=torch.nn.BatchNorm2d, activation=torch.nn.SiLU), (2, 8, 9, 9)),
        (nn.DepthwiseSeparableConv2d(8, 4, 3, mid_activation=torch.nn.ReLU), (2, 8, 9, 9)),
        (nn.InvertedResidual2d(8, 8, 3, padding=1, activation=torch.nn.ReLU6), (2, 8, 9, 9)),
        (nn.LightweightConv1d(8, 3, heads=2), (2, 8, 9)),
        (nn.Linear(8, 4, activation=torch.nn.GELU), (2, 8)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, torch.nn.Module) else "",
)
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes are checked, and become constants
def test_traces_hold_operators_of_torch_alone(layer, shape, gradients):
    """So that ONNX can be made of them, and they run where this package is not."""
    layer, x = layer.eval(), torch.randn(shape)
    with torch.set_grad_enabled(gradients):
        layer(x)
        traced = torch.jit.trace(layer, (x,))
        assert not re.search("omniconv::|overrideable", str(traced.inlined_graph))
        assert_close(traced(x), layer(x))
