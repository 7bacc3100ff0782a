# SPDX-License-Identifier: Apache-2.0
"""Operators of what follows a convolution, called by hand: they refuse what disagrees, or compute it right."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from core.test_native_refusals import ODD, OTHER_TYPES, other_tensors, refuses
from omniconv.core.library import absent
from omniconv.core.register import _NATIVE
from tolerance import assert_close

pytestmark = pytest.mark.skipif(bool(absent()), reason=absent())
OPS = torch.ops.omniconv
ACTIVATIONS = (
    lambda x: x,
    F.relu,
    F.relu6,
    F.silu,
    F.gelu,
    lambda x: F.gelu(x, approximate="tanh"),
    F.hardswish,
)
EPSILON = 1e-3
FEW, IN, MIDDLE, OUT = 4, 8, 16, 32  # whole vectors, so that turned weights are packed to as many numbers


def norm_of(channels):
    """Mean, variance, factor and shift."""
    return [torch.randn(channels), torch.rand(channels) + 0.5, torch.randn(channels), torch.randn(channels)]


def normed(x, norm, epsilon):
    """A batch norm, or a factor and a shift, or nothing."""
    terms = [term.double() for term in norm]
    if not terms:
        return x
    mean, variance = terms[:2] if len(terms) == 4 else (None, None)
    factor, shift = (term.view(1, -1, *[1] * (x.dim() - 2)) for term in terms[-2:])
    if mean is None:
        return x * factor + shift
    return F.batch_norm(x, mean, variance, factor.flatten(), shift.flatten(), eps=epsilon)


def wide(tensor):
    return None if tensor is None else tensor.double()


def convolution_parts(input, weight, _packed, bias, norm, epsilon, addend, numbers):
    native = _NATIVE["conv", "native"]
    output = native.universal(wide(input), wide(weight), wide(bias), *native.flat.unpack(numbers[:-1]))
    output = normed(output, norm, epsilon)
    assert addend is None or addend.shape == output.shape
    return ACTIVATIONS[numbers[-1]](output if addend is None else output + addend.double())


def separable_parts(
    input, taps, taps_bias, mid_norm, mid_epsilon, across, _packed, bias, norm, epsilon, addend, numbers
):
    numbers, (between, after) = numbers[:-2], numbers[-2:]
    native = _NATIVE["depthwise_separable", "native"]
    stride, padding, dilation, mode = native.flat.unpack(numbers)
    first = _NATIVE["conv", "native"].universal
    assert input.shape[1] > 0
    assert taps.shape[1] == 1
    assert across.flatten(1).shape[1] == across.shape[1]
    output = first(wide(input), wide(taps), wide(taps_bias), stride, padding, dilation, input.shape[1], mode)
    output, ones = ACTIVATIONS[between](normed(output, mid_norm, mid_epsilon)), (1,) * len(stride)
    output = first(
        output,
        wide(across),
        wide(bias),
        ones,
        (0,) * len(padding),
        ones,
        1,
        mode,
    )
    output = normed(output, norm, epsilon)
    assert addend is None or addend.shape == output.shape
    return ACTIVATIONS[after](output if addend is None else output + addend.double())


def inverted_parts(input, weight, _packed, bias, norm, epsilon, *others):
    *others, numbers = others
    ones, channels = (1,) * (input.dim() - 2), input.shape[1]
    assert weight.flatten(1).shape == (weight.shape[0], channels)
    first = _NATIVE["conv", "native"].universal
    expanded = first(wide(input), wide(weight), wide(bias), ones, (0,) * 2 * len(ones), ones, 1, "zeros")
    expanded = ACTIVATIONS[numbers[-1]](normed(expanded, norm, epsilon))
    return separable_parts(expanded, *others, numbers[:-1])


def laid(tensor, inside):
    return tensor.to(memory_format=torch.channels_last) if inside else tensor


def pointwise_call(inside=False, packed=True):
    """An operator, its parts, and arguments that agree."""
    input, weight = laid(torch.randn(2, MIDDLE, 5, 6), inside), torch.randn(OUT, MIDDLE, 1, 1)
    own = OPS.pointwise_pack(input, weight) if packed else None
    addend, numbers = laid(torch.randn(2, OUT, 5, 6), inside), (2, 1, 1, 4, 0, 0, 0, 0, 2, 1, 1, 1, 0, 3)
    arguments = (input, weight, own, torch.randn(OUT), norm_of(OUT), EPSILON, addend, numbers)
    return OPS.pointwise_followed, convolution_parts, arguments


def implicit_call(inside=False, packed=True):
    """An operator, its parts, and arguments that agree."""
    input, weight = laid(torch.randn(2, IN, 5, 6), inside), torch.randn(OUT, IN, 3, 2)
    addend, numbers = laid(torch.randn(2, OUT, 5, 3), inside), (2, 1, 2, 4, 1, 1, 0, 1, 2, 1, 1, 1, 0, 3)
    own = OPS.implicit_pack(input, weight, numbers[:-1]) if packed else None
    arguments = (input, weight, own, torch.randn(OUT), norm_of(OUT), EPSILON, addend, numbers)
    return OPS.implicit_followed, convolution_parts, arguments


def separable_call(inside=False, packed=True):
    """An operator, its parts, and arguments that agree."""
    input, taps = laid(torch.randn(2, IN, 7, 6), inside), torch.randn(MIDDLE, 1, 3, 2)
    across = torch.randn(OUT, MIDDLE, 1, 1)
    own = OPS.pointwise_pack(laid(torch.randn(1, MIDDLE, 2, 2), inside), across) if packed else None
    addend, numbers = laid(torch.randn(2, OUT, 4, 7), inside), (2, 2, 1, 4, 1, 1, 1, 1, 2, 1, 1, 0, 6, 4)
    before = (input, taps, torch.randn(MIDDLE), norm_of(MIDDLE), EPSILON)
    return (
        OPS.separable_followed,
        separable_parts,
        (*before, across, own, torch.randn(OUT), norm_of(OUT), EPSILON, addend, numbers),
    )


def inverted_call(inside=False, packed=True):
    """An operator, its parts, and arguments that agree."""
    _, _, (input, *others, numbers) = separable_call(inside, packed)
    x, weight = laid(torch.randn(2, FEW, *input.shape[2:]), inside), torch.randn(IN, FEW, 1, 1)
    own = OPS.pointwise_pack(x, weight) if packed else None
    before = (x, weight, own, torch.randn(IN), norm_of(IN), EPSILON)
    return OPS.inverted_followed, inverted_parts, (*before, *others, (*numbers, 2))


CALLS = {
    "pointwise": pointwise_call,
    "implicit": implicit_call,
    "separable": separable_call,
    "inverted": inverted_call,
}
PACKED = {
    "pointwise": (2,),
    "implicit": (2,),
    "separable": (6,),
    "inverted": (11, 2),
}  # their places among the arguments
each_call = pytest.mark.parametrize("name", CALLS)
each_layout = pytest.mark.parametrize("inside", [False, True])


def replaced(arguments, at, value):
    return (*arguments[:at], value, *arguments[at + 1 :])


def wrong_norms(norm):
    """What is wrong, and norms that are: of another number of tensors, or with one that is wrong."""
    for count in (1, 3, 5, 6):
        yield f"{count} tensors", [*norm, *norm][:count]
    for at, term in enumerate(norm):
        for what, other in other_tensors(term):
            if other is not None:
                yield f"tensor {at}: {what}", replaced(norm, at, other)


def wrong_numbers(numbers):
    for count in range(len(numbers)):
        yield f"{count} numbers", numbers[:count]
    yield "a number more", (*numbers, 0)
    for at, number in enumerate(numbers):
        for other in (*ODD, 7, number + 1, number - 1):
            yield f"number {at} is {other}", replaced(numbers, at, other)
    drawn = random.Random(0)  # noqa: S311
    for _ in range(100):
        some = tuple(drawn.randint(-1, 4) if drawn.random() < 0.3 else number for number in numbers)
        yield f"numbers are {some}", some


def wrong_calls(arguments, packed):
    """What is wrong with a call, and its arguments."""
    for at, argument in enumerate(arguments):
        if at in packed:
            continue
        if isinstance(argument, torch.Tensor) and argument.numel():  # packed weights may be of no elements
            others = other_tensors(argument)
        elif isinstance(argument, list):
            others = wrong_norms(argument)
        elif isinstance(argument, tuple):
            others = wrong_numbers(argument)
        else:
            continue
        for what, other in others:
            yield f"argument {at}: {what}", replaced(arguments, at, other)


def check_call(operator, parts, what, arguments):
    """Whether a call raises; else it gives what the parts do."""
    try:
        output = operator(*arguments)
    except (RuntimeError, TypeError):
        return True
    try:
        want = parts(*arguments)
    except (RuntimeError, ValueError, IndexError, StopIteration, AssertionError, TypeError) as error:
        raise AssertionError(
            f"{what}: gives an output of shape {tuple(output.shape)}, and the parts {error}"
        ) from error
    assert_close(output, want)
    return False


@each_layout
@each_call
def test_what_agrees_is_computed(name, inside):
    for packed in (False, True):
        operator, parts, arguments = CALLS[name](inside, packed)
        for norm in (norm_of(OUT), norm_of(OUT)[:2], []):
            for addend in (arguments[-2], None):
                assert not check_call(operator, parts, "right", (*arguments[:-4], norm, EPSILON, addend, arguments[-1]))


@each_layout
@each_call
def test_what_disagrees_is_refused_or_computed(name, inside):
    operator, parts, arguments = CALLS[name](inside)
    calls = list(wrong_calls(arguments, PACKED[name]))
    refused = sum(check_call(operator, parts, *call) for call in calls)
    assert refused > len(calls) / 2


@each_layout
@pytest.mark.parametrize("name", sorted({*CALLS} - {"implicit"}))
def test_packed_weights_of_another_kind_are_not_used(name, inside):
    for at in PACKED[name]:
        check_packed(*CALLS[name](inside), at, inside)


def check_packed(operator, parts, arguments, at, inside):
    """Whether packed weights at this place that are not those of the call are left alone."""
    right = arguments[at]
    weight = next(a for a in arguments[at - 1 :: -1] if isinstance(a, torch.Tensor) and a.shape[2:] == (1, 1))
    outs, ins = weight.shape[:2]
    images = torch.randn(1, ins, 3, 3)
    others = {
        "of the other layout": OPS.pointwise_pack(laid(images, not inside), weight),
        "of other weights": OPS.pointwise_pack(laid(images, inside), torch.randn_like(weight)),
        "of more outputs": OPS.pointwise_pack(laid(images, inside), torch.randn(outs + 1, ins, 1, 1)),
        "of fewer inputs": OPS.pointwise_pack(laid(images[:, 1:], inside), weight[:, 1:]),
        "turned": OPS.pointwise_pack(laid(torch.randn(1, outs, 3, 3), inside), weight.transpose(0, 1).contiguous()),
        "of other numbers": torch.randn(max(right.numel(), 1)),
        "of nothing": torch.empty(0),
        "of every second number": torch.stack([right, right], 1).flatten()[::2]
        if right.numel()
        else torch.randn(4)[::2],
        "of one number, expanded": torch.ones(1).expand(max(right.numel(), 1)),
        **dict(other_tensors(right) if right.numel() else ()),
        **{f"numbers of {dtype}": torch.zeros(max(right.numel(), 1)).to(dtype) for dtype in OTHER_TYPES},
        "elsewhere": right.to("meta"),
    }
    for what, other in others.items():
        check_call(operator, parts, what, replaced(arguments, at, other))


@each_layout
def test_weights_packed_for_another_product_are_not_used(inside):
    """Of an implicit product, which takes packed weights to be those of its call."""
    operator, parts, arguments = implicit_call(inside)
    right, numbers = arguments[2], arguments[-1][:-1]
    taps, images = 3 * 2, torch.randn(1, IN, 3, 3)
    others = {
        "of a pointwise one": OPS.pointwise_pack(torch.randn(1, IN * taps, 2, 2), torch.randn(OUT, IN * taps, 1, 1)),
        "of more outputs": OPS.implicit_pack(images, torch.randn(2 * OUT, IN, 3, 2), numbers),
        "of fewer inputs": OPS.implicit_pack(images[:, 1:], torch.randn(OUT, IN - 1, 3, 2), numbers),
        "of other numbers": torch.randn(right.numel()),
        "of nothing": torch.empty(0),
        "of every second number": torch.stack([right, right], 1).flatten()[::2],
        "elsewhere": right.to("meta"),
        **dict(other_tensors(right)),
    }
    for what, other in others.items():
        check_call(operator, parts, what, replaced(arguments, 2, other))


@each_layout
def test_packing_refuses_what_is_no_pointwise_weight(inside):
    input, weight = laid(torch.randn(2, MIDDLE, 3, 3), inside), torch.randn(OUT, MIDDLE, 1, 1)
    wrong = {what: (input, other) for what, other in other_tensors(weight)}
    for what in (*(f"one {by} on axis {axis}" for by in ("more", "less") for axis in (0, 1)), "torch.bfloat16"):
        del wrong[what]  # another weight
    for what, other in other_tensors(input):
        if "axis " not in what and what != "torch.bfloat16":
            wrong[f"input: {what}"] = other, weight
    wrong |= {"two taps": (input, torch.randn(OUT, MIDDLE, 1, 2)), "a matrix": (input, weight.flatten(1))}
    assert [what for what, arguments in wrong.items() if not refuses(OPS.pointwise_pack, *arguments)] == []


@each_call
def test_weights_in_any_order_are_packed_alike(name):
    operator, parts, arguments = CALLS[name](packed=name != "implicit")  # which takes packed weights for those given
    for at, argument in enumerate(arguments):
        if isinstance(argument, torch.Tensor) and argument.dim() > 1 and at not in PACKED[name]:
            turned = argument.transpose(0, 1).contiguous().transpose(0, 1)
            assert not check_call(operator, parts, f"argument {at} turned", replaced(arguments, at, turned))
            assert not check_call(
                operator, parts, "expanded", replaced(arguments, at, argument[:1, :1].expand_as(argument))
            )
