# SPDX-License-Identifier: Apache-2.0
"""The first kernel that takes a problem runs it, and each faster one says in a sentence why it did not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omniconv.core import family as records
from omniconv.core.choose import choose
from omniconv.core.family import Kernel, families, family_of, settings
from omniconv.core.problem import ConvProblem

REFUSALS = {
    "conv:c3_o4_k3x3_pad1": None,
    "conv:c3_o4_k3x3_pad1x2": None,
    "conv:c3_o4_k3x3_s2_padvalid": None,
    "conv:c3_o4_k3x3_padsame": None,
    "conv:c3_o4_k2x2_padsame": "not the same on both sides",
    "conv:c3_o4_k3_padcausal": "not the same on both sides",
    "conv:c3_o4_k3x3_s2_padtf-same": "depends on the input size",
    "conv:c3_o4_k3x3_pad1_reflect": "the padding mode is 'reflect'",
}


@pytest.mark.parametrize(("text", "why"), REFUSALS.items())
def test_the_kernel_of_an_ordinary_convolution(text, why):
    choice = choose(ConvProblem.parse(text))
    if why is None:
        assert (choice.kernel.name, choice.refused) == ("direct", ())
        assert choice.reason == f"direct: {choice.kernel.summary}"
    else:
        assert (choice.kernel.name, [name for name, _ in choice.refused]) == ("padded", ["direct"])
        assert why in choice.refused[0][1]
        assert choice.reason.endswith(f" Not direct: {choice.refused[0][1]}")


@pytest.mark.parametrize("family", families().values(), ids=lambda family: family.name)
def test_the_last_kernel_of_a_family_takes_every_problem(family):
    assert len({kernel.name for kernel in family.kernels}) == len(family.kernels)
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
