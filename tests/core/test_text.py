# SPDX-License-Identifier: Apache-2.0
"""Problem strings: every problem has one that reads back, and what cannot be read says why."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from omniconv.core.family import families
from omniconv.core.padding import RULES
from omniconv.core.problem import PADDING_MODES, ConvProblem


@st.composite
def problems(draw):
    """A problem with every field that a string holds."""
    dim, groups, turned = draw(st.integers(1, 4)), draw(st.integers(1, 12)), draw(st.booleans())

    def axes(least, most):
        return tuple(draw(st.integers(least, most)) for _ in range(dim))

    entry = st.tuples(st.integers(0, 12), st.integers(0, 12)) | st.integers(0, 12) | st.sampled_from(RULES)
    known = draw(st.booleans())
    names = st.sampled_from(("heads", "offset_groups", "head_layout", "softmax", "n", "pad1"))
    special = draw(st.dictionaries(names, st.integers(-9, 99) | st.sampled_from(("sequence", "a-word", "", "x1"))))
    try:
        return ConvProblem.of(
            draw(st.sampled_from(("conv", "transposed", "depthwise_separable"))),
            dim,
            groups * draw(st.integers(1, 9)),
            groups * draw(st.integers(1, 9)),
            axes(1, 12),
            axes(1, 3),
            tuple(draw(entry) for _ in range(dim)),
            axes(1, 3),
            groups,
            bias=draw(st.booleans()),
            padding_mode="zeros" if turned else draw(st.sampled_from(PADDING_MODES)),
            transposed=turned,
            output_padding=axes(0, 1) if turned else 0,
            in_size=axes(1, 60) if known else None,
            batch=draw(st.integers(0, 33)) if known else None,
            **special,
        )
    except ValueError:
        assume(condition=False)


@settings(max_examples=300)
@given(problems())
def test_every_problem_reads_back_from_its_string(problem):
    assert ConvProblem.parse(str(problem)) == problem
    assert str(ConvProblem.parse(str(problem))) == str(problem)


@pytest.mark.parametrize("family", families().values(), ids=lambda family: family.name)
def test_the_named_problems_are_written_as_they_print(family):
    for text in family.cases.values():
        assert str(ConvProblem.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("conv:c3_o8_k3", ConvProblem.of("conv", 1, 3, 8, 3)),
        ("conv:k3x3_o8_c3_padsame", ConvProblem.of("conv", 2, 3, 8, 3, padding="same")),
        ("conv:c3_o8_i9x9_k3x3_s2", ConvProblem.of("conv", 2, 3, 8, 3, 2, in_size=9)),
        ("conv:c3_o8_k3x3_pad1", ConvProblem.of("conv", 2, 3, 8, 3, padding=1)),
        ("conv:c3_o8_k3x3_pad0:1", ConvProblem.of("conv", 2, 3, 8, 3, padding=((0, 1), (0, 1)))),
        ("conv:c3_o8_k3x3_pad1:1xtf-same", ConvProblem.of("conv", 2, 3, 8, 3, padding=(1, "tf_same"))),
        (
            "transposed:c3_o8_k3_s2_op1_t_b",
            ConvProblem.of("transposed", 1, 3, 8, 3, 2, transposed=True, output_padding=1, bias=True),
        ),
        (
            "dynamic:c4_o4_k3_g4_heads=2_head-layout=x",
            ConvProblem.of("dynamic", 1, 4, 4, 3, groups=4, heads=2, head_layout="x"),
        ),
    ],
)
def test_a_string_reads_as_written_by_hand(text, problem):
    assert ConvProblem.parse(text) == problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("conv:c3_o4_k3xx3", "'3xx3' where whole numbers are expected"),
        ("conv:c3.5_o4_k3x3", "'3.5' where whole numbers are expected"),
        ("conv:c3x3_o4_k3x3", "where whole numbers are expected"),
        ("conv:c3_o4_k3x3_pad1:a", "'a' where whole numbers are expected"),
        ("conv:n2_c3_o4_k3x3", "has a batch without an input size"),
        ("conv:c3_o4_k3x3_q7", "a token 'q7' that is not known"),
        ("conv:c3_o4", "lacks k"),
        ("c3_o4_k3", "must begin with a family and a colon"),
        (":c3_o4_k3", "must begin with a family and a colon; use 'conv:c3_o8_i32x32_k3x3'"),
        ("conv:", "has a token '' that is not known"),
        ("conv:c3_c4_o4_k3", "a token 'c4' that is not known or stands twice"),
        ("conv:c3_o4_k3_b_b", "a token 'b' that is not known or stands twice"),
        ("conv:c3_o4_k3_reflect_circular", "a token 'circular' that is not known or stands twice"),
        ("conv:c3_o4_k3_heads=2_heads=4", "a token 'heads=4' that is not known or stands twice"),
        ("conv:c3_o4_k3_bias=1", "a token 'bias=1' that is not known"),
        ("conv:c3_o4_k3_=1", "a token '=1' that is not known"),
        ("conv:c3_o4_k3_pad-1", "a token 'pad-1' that is not known"),
        ("conv:c3_o4_k3_padfull", r"`padding` \(='full'\) must be a number or a known rule"),
        ("conv:c3_o4_k3x3_pad1x1x1", "must have one entry per axis"),
        ("conv:c3_o4_k3_g2", r"`groups` \(=2\) must divide `in_channels` \(=3\); use 1\."),
        ("conv:c3_o4_i2_k3", r"`input` size \(=2\) on spatial axis 0 is too small"),
    ],
)
def test_a_string_that_cannot_be_read_says_why(text, said):
    with pytest.raises(ValueError, match=said):
        ConvProblem.parse(text)
