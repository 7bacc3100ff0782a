# SPDX-License-Identifier: Apache-2.0
"""Layers and functions are other doors to the same kernels, and layers live as torch's modules do."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace

import torch

from contract.calls import call, functions_for, inputs_of
from contract.problems import CASES, CHOSEN, assert_same, each, expected, families, halves, reals, tracked
from tolerance import assert_equal


def check_layer(problem, layer_of):
    """A layer computes its problem, survives copies, pickles and state dicts, and is made alike from the same seed."""
    torch.manual_seed(3)
    layer = layer_of(problem)
    assert plain(layer.problem) == plain(problem), f"the layer computes {layer.problem}, not {problem}"
    tensors = inputs_of(layer, problem, reals(problem, torch.float32))
    want = layer(*tensors)
    assert want.shape == (problem.batch, problem.out_channels, *problem.out_size), f"shape {tuple(want.shape)}"

    torch.manual_seed(3)
    assert_equal(layer_of(problem)(*tensors), want)
    for copied in (copy.deepcopy, _pickled, _saved_and_loaded):
        try:
            other = copied(layer)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            raise AssertionError(f"the layer cannot be copied: {error}") from error
        assert_equal(other(*tensors), want)
    fresh = layer_of(problem)
    assert list(fresh.state_dict()) == list(layer.state_dict()), "the keys of the state dict change"
    fresh.load_state_dict(layer.state_dict(), strict=True)
    assert_equal(fresh(*tensors), want)
    held = {name for name, _ in (*layer.named_parameters(), *layer.named_buffers())}
    assert set(layer.state_dict()) == held, "the state dict does not hold every parameter and buffer"


def plain(problem):
    """The problem without its input, and without what only the other tensors of a call decide."""
    return replace(problem, in_size=None, batch=None, special=())


def _pickled(layer):
    return pickle.loads(pickle.dumps(layer))  # noqa: S301  # written by the line itself


def _saved_and_loaded(layer):
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def check_layer_moves(problem, layer_of):
    """A layer is made on the device and in the dtype asked for, and moves to others."""
    assert {p.device.type for p in layer_of(problem, device="meta").parameters()} <= {"meta"}
    for layer in (layer_of(problem, dtype=torch.float64), layer_of(problem).double()):
        assert {p.dtype for p in layer.parameters()} <= {torch.float64}
        tensors = inputs_of(layer, problem, reals(problem))
        assert layer(*tensors).dtype == torch.float64


def check_layer_trains(problem, layer_of):
    """One backward pass reaches every parameter of a layer in training."""
    layer = layer_of(problem).train()
    if not list(layer.parameters()):
        return
    output = layer(*inputs_of(layer, problem, tracked(reals(problem, torch.float32))))
    output.square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert bool(parameter.grad.isfinite().all()), f"the gradient of {name} is not finite"


def check_function(problem, function):
    tensors = halves(problem)
    want = expected(problem, tensors)
    assert_same(problem, call(function, problem, tensors), want)


@each(CHOSEN)
def test_layer(case):
    check_layer(case.problem, case.family.layer_of)


@each(CHOSEN)
def test_layer_moves(case):
    check_layer_moves(case.problem, case.family.layer_of)


@each([case for case in CHOSEN if case.problem.batch])
def test_layer_trains(case):
    check_layer_trains(case.problem, case.family.layer_of)


@each(CHOSEN)
def test_functions(case):
    for function in functions_for(case.problem):
        check_function(case.problem, function)


def test_every_function_of_axes_is_called():
    """No function is left out because its arguments are not named as the problem's."""
    called = {f.__name__ for case in CASES for f in functions_for(case.problem)}
    public = {name for family in families().values() for name in family.functions if name[-2:] in ("1d", "2d", "3d")}
    assert public - called == set()
