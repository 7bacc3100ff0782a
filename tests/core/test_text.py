# SPDX-License-Identifier: Apache-2.0
"""Problem strings that cannot be read, and what is said about them."""

import pytest

from omniconv.core.problem import ConvProblem


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
    ],
)
def test_a_string_that_cannot_be_read_says_why(text, said):
    with pytest.raises(ValueError, match=said):
        ConvProblem.parse(text)
