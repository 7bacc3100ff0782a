# SPDX-License-Identifier: Apache-2.0
"""The first kernel that takes a problem runs it, and each faster one says in a sentence why it did not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omniconv.core import family as records
from omniconv.core.choose import choose
from omniconv.core.family import Kernel, families, family_of, settings
from omniconv.core.problem import ConvProblem

DENSE, WIDE, HIDDEN = "every channel meets every other", "past 16 oneDNN is near", "OMNICONV_NATIVE=0 hides"
# The kernel that runs, the one made of ATen calls that stands in for it, and what those before it say.
CHOICES = {
    "conv:c3_o4_k3x3_pad1": ("direct", "direct", {"native": DENSE}),
    "conv:c3_o4_k3x3_pad1x2": ("direct", "direct", {"native": DENSE}),
    "conv:c3_o4_k3x3_s2_padvalid": ("direct", "direct", {"native": DENSE}),
    "conv:c3_o4_k3x3_padsame": ("direct", "direct", {"native": DENSE}),
    "conv:c3_o4_k2x2_padsame": ("padded", "padded", {"native": DENSE, "direct": "not the same on both sides"}),
    "conv:c3_o4_k3_padcausal": ("padded", "padded", {"native": DENSE, "direct": "not the same on both sides"}),
    "conv:c3_o4_k3x3_s2_padtf-same": ("padded", "padded", {"native": DENSE, "direct": "depends on the input size"}),
    "conv:c3_o4_k3x3_pad1_reflect": ("padded", "padded", {"native": DENSE, "direct": "padding mode is 'reflect'"}),
    "conv:c4_o4_k3x3_g4_pad1_reflect": ("padded", "padded", {"native": "'reflect'", "direct": "'reflect'"}),
    "conv:c34_o34_k3x3_g2_pad1": ("direct", "direct", {"native": WIDE}),
    "conv:c2_o34_k3x3_g2_padcausal": ("padded", "padded", {"native": WIDE, "direct": "not the same on both sides"}),
    "conv:c64_o128_k3x3_d7x7_pad7": ("channels_last", "channels_last", {"native": DENSE}),
    "conv:c64_o128_k3x3_d7x6_pad7x6": ("direct", "direct", {"native": DENSE, "channels_last": "fewer than 7 columns"}),
    "conv:c63_o128_k3x3_d7x7_pad7": (
        "direct",
        "direct",
        {"native": DENSE, "channels_last": "64 channels in"},
    ),
    "conv:c64_o127_k3x3_d7x7_pad7": ("direct", "direct", {"native": DENSE, "channels_last": "128 out"}),
    "conv:c64_o128_k3x3_s2_d7x7_pad7": ("direct", "direct", {"native": DENSE, "channels_last": "strides of 1"}),
    "conv:c16_o4_k3_pad1": ("image", "image", {"native": DENSE, "channels_last": "two axes"}),
    "conv:c15_o4_k3_pad1": ("direct", "direct", {"native": DENSE, "image": "16 channels or more"}),
    "transposed:c128_o4_k2x2_s2_t": ("channels_last", "channels_last", {"native": DENSE}),
    "transposed:c129_o4_k2x2_s2_t": ("direct", "direct", {"native": DENSE, "channels_last": "more than 128 channels"}),
    "transposed:c128_o4_k2x2_s1x2_t": ("direct", "direct", {"native": DENSE, "channels_last": "strides of 2"}),
    "conv:c4_o4_k3x3_g4_pad1": ("native", "direct", {}),
    "conv:c32_o16_k3_g2_s2_d2": ("native", "direct", {}),
    "conv:c4_o4_k3_g4_padcausal": ("native", "padded", {"direct": "not the same on both sides"}),
    "conv:c4_o8_k3x3_g4_s2_padtf-same": ("native", "padded", {"direct": "depends on the input size"}),
}


@pytest.mark.parametrize(("text", "kernel", "portable", "refused"), [(text, *rest) for text, rest in CHOICES.items()])
@pytest.mark.parametrize("hidden", [False, True], ids=["", "hidden"])
def test_the_kernel_of_an_ordinary_convolution(text, kernel, portable, refused, hidden, monkeypatch):
    monkeypatch.setenv("OMNICONV_NATIVE", "0" if hidden else "1")
    choice = choose(ConvProblem.parse(text))
    if kernel == "native":
        kernel, refused = (portable, {"native": HIDDEN, **refused}) if hidden else (kernel, {})
    assert (choice.kernel.name, choice.portable.name) == (kernel, portable)
    said = dict(choice.refused)
    assert all(part in said[name] for name, part in refused.items())
    names = [one.name for one in family_of(ConvProblem.parse(text)).kernels]
    assert list(said) == names[: names.index(kernel)]
    whole = f"{kernel}: {choice.kernel.summary}" + "".join(f" Not {name}: {said}" for name, said in choice.refused)
    assert choice.reason == whole


@pytest.mark.parametrize(
    ("dtype", "device", "said"),
    [
        ("float64", "cpu", "it computes float32 and bfloat16, and this is float64."),
        ("float32", "cuda:0", "it runs on a CPU, and this is cuda:0."),
    ],
)
def test_compiled_kernels_refuse_other_types_and_devices(dtype, device, said, monkeypatch):
    monkeypatch.setenv("OMNICONV_NATIVE", "1")
    problem = ConvProblem.parse("conv:c4_o4_k3x3_g4_pad1")
    choice = choose(problem, dtype, device)
    assert (choice.kernel.name, dict(choice.refused)["native"]) == ("direct", said)
    assert choose(problem, "bfloat16").kernel.name == "native"


@pytest.mark.parametrize("family", families().values(), ids=lambda family: family.name)
def test_the_last_kernel_of_a_family_takes_every_problem(family):
    assert len({kernel.name for kernel in family.kernels}) == len(family.kernels)
    assert not family.kernels[-1].compiled
    for text in family.cases.values():
        problem = ConvProblem.parse(text)
        assert family.kernels[-1].refuse(problem) is None
        choice = choose(problem)
        before = family.kernels[: family.kernels.index(choice.kernel)]
        assert [name for name, _ in choice.refused] == [kernel.name for kernel in before]
        for kernel in family.kernels:
            why = kernel.refuse(problem)
            assert why is None or (why.endswith(".") and len(why) > 20)


def test_a_family_that_takes_nothing_says_so(monkeypatch):
    never = Kernel("never", "takes nothing.", refuse=lambda problem: "it takes nothing at all.")
    monkeypatch.setitem(records._FAMILIES, "conv", replace(families()["conv"], kernels=(never,)))
    with pytest.raises(RuntimeError, match=r"every kernel of 'conv' refused conv:c1_o1_k3: .*it takes nothing at all"):
        choose(ConvProblem.parse("conv:c1_o1_k3"))


def test_a_family_that_is_not_there_names_those_that_are():
    with pytest.raises(ValueError, match=r"`family` \(='convolution'\) is not registered; use conv, transposed,"):
        family_of(ConvProblem.parse("convolution:c1_o1_k3"))


def test_every_setting_is_found_under_its_own_name():
    assert set(settings()) >= {"standard", "dilated", "grouped", "depthwise", "pointwise", "transposed"}
    for name, (family, setting) in settings().items():
        assert setting.name == name
        assert setting in family.settings
        assert family.setting_of(ConvProblem.parse(next(iter(family.cases.values())))) in family.settings
