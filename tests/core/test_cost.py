# SPDX-License-Identifier: Apache-2.0
"""Formulas are shown and evaluated exactly and run no code; a cost is the sum of its steps."""

from __future__ import annotations

import re
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniconv.core.cost import Cost, Formula, letters_of, step_of
from omniconv.core.family import families, family_of
from omniconv.core.problem import ConvProblem
from omniconv.core.taps import count_products

LETTERS = {"N": 1, "P": 3136, "O": 128, "C": 64, "G": 1, "K": 9, "H_2": 5}


def test_a_formula_is_letters_numbers_and_a_value():
    macs = Formula("N*P*O*C//G*K", LETTERS)
    assert macs.symbols == "N·P·O·C/G·K"
    assert macs.numbers == "1·3,136·128·64/1·9"
    assert macs.value == 231_211_008
    assert Formula("K - (H_2 + 1)*2", LETTERS).numbers == "9 - (5 + 1)·2"
    assert Formula("K - (H_2 + 1)*2", LETTERS).value == -3
    assert Formula("0", {}).value == 0


@given(st.lists(st.integers(1, 10**30), min_size=3, max_size=3))
def test_values_are_exact_however_large(numbers):
    letters = dict(zip("ABC", numbers, strict=True))
    formula = Formula("A*B*C + A//B - C", letters)
    assert formula.value == prod(numbers) + numbers[0] // numbers[1] - numbers[2]
    assert Formula(formula.numbers.replace("·", "*").replace("/", "//").replace(",", ""), {}).value == formula.value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').getcwd()",
        "().__class__",
        "[1][0]",
        "N if P else O",
        "(lambda: 1)()",
        "2**9999999",
        "N/P",
        "-N",
        "N < P",
        "f'{N}'",
        "(N := 1)",
    ],
)
def test_a_formula_runs_no_code(text):
    with pytest.raises(ValueError, match=re.escape("may hold only names, integers and + - * //.")):
        _ = Formula(text, LETTERS).value


@pytest.mark.parametrize("text", ["'a'*3", "1.5*N", "True + N", "1j", "None"])
def test_a_formula_holds_only_integers(text):
    with pytest.raises(ValueError, match=re.escape(f"`text` (={text!r}) may hold only names, integers and")):
        _ = Formula(text, LETTERS).value


def test_a_letter_that_is_not_there_is_named():
    with pytest.raises(NameError, match="Q"):
        _ = Formula("N*Q", LETTERS).value
    with pytest.raises(NameError, match="print"):
        _ = Formula("print", LETTERS).value


def test_letters_are_the_sizes_of_a_problem():
    problem = ConvProblem.parse("conv:n2_c4_o6_i9x8_k3x2_s2_g2")
    assert letters_of(problem) == {"N": 2, "C": 4, "O": 6, "G": 2, "K": 6, "P": 16, "I": 72}
    assert letters_of(ConvProblem.parse("conv:c4_o6_i9_k3"))["N"] == 1
    with pytest.raises(ValueError, match=re.escape("`in_size` (=None) must be known for a cost; use problem.at(")):
        letters_of(ConvProblem.parse("conv:c4_o6_k3"))


def two_steps():
    letters = {"A": 10, "B": 3}
    first = step_of("first", letters, params="B", macs="A*B", inputs="A", outputs="A", bias="1", bias_adds="A")
    second = step_of(
        "second", letters, params="0", macs="A", inputs="2*A", outputs="B", sampling="A*B", exponentials="B"
    )
    return Cost(ConvProblem.parse("conv:c1_o1_i4_k3"), (first, second))


@pytest.mark.pitfall(44)
def test_a_cost_is_the_sum_of_its_steps_with_bias_and_sampling_apart():
    cost = two_steps()
    assert (cost.params, cost.macs) == (3 + 1, 30 + 10)
    assert (cost.bias_adds, cost.sampling, cost.exponentials) == (10, 30, 3)
    assert [step.flops for step in cost.steps] == [2 * 30 + 10, 2 * (10 + 30)]
    assert [step.elements for step in cost.steps] == [10 + 3 + 1 + 10, 20 + 3]
    assert (cost.flops, cost.bytes(), cost.bytes(2)) == (150, 4 * 47, 2 * 47)
    assert cost.intensity() == 150 / 188
    assert cost.intensity(2) == 150 / 94
    assert Cost(cost.problem, ()).intensity() == 0


@pytest.mark.pitfall(44)
def test_a_multiply_add_is_one_mac_and_a_transposed_one_is_counted_on_its_inputs():
    gather = ConvProblem.parse("conv:n3_c4_o6_i9x8_k3x2_s2_g2_b")
    cost = family_of(gather).cost(gather)
    assert cost.macs == 3 * 6 * (4 * 4) * (4 // 2) * 6
    assert (cost.bias_adds, cost.flops) == (3 * 6 * 16, 2 * cost.macs + 3 * 6 * 16)
    scatter = ConvProblem.parse("transposed:n3_c4_o6_i9x8_k3x2_s2_g2_t")
    assert family_of(scatter).cost(scatter).macs == 3 * 4 * (9 * 8) * (6 // 2) * 6
    assert scatter.out_size == (19, 16)


@pytest.mark.parametrize("family", families().values(), ids=lambda family: family.name)
def test_every_walk_counts_what_its_formula_says(family):
    walked = 0
    for text in family.cases.values():
        for step in family.cost(ConvProblem.parse(text)).steps:
            assert Formula(step.macs.text, step.macs.letters).value == step.macs.value >= 0
            assert step.params.value >= 0
            if step.walk is not None and step.walk.batch:
                walked += 1
                assert count_products(step.walk).all_taps == step.macs.value
    assert walked
