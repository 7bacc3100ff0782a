# SPDX-License-Identifier: Apache-2.0
"""Text in columns: widths of wide letters, tables that go on below themselves, numbers a person can read."""

from __future__ import annotations

import csv
import io

import pytest

from omniconv.report.delimited import comma_separated, markdown, tab_separated
from omniconv.report.files import write
from omniconv.report.grid import Column, Span, cells, fields, plain, table, wrapped
from omniconv.report.numbers import digits, each, percent, ratio, short, times


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("합성곱", 6), ("e\u0301", 1), ("3×3", 3), ("≈ ¹", 3), ("－", 2), ("", 0)]
)
def test_cells(text, width):
    assert cells(text) == width


def rows(count, columns):
    return [[Span(f"r{r}c{c}") for c in range(columns)] for r in range(count)]


def test_columns_stand_under_their_headings():
    columns = [Column("이름", right=False), Column("n")]
    lines = plain(table(columns, [[Span("합성곱"), Span("1")], [Span("ab"), Span("100")]])).split("\n")
    assert lines == ["이름      n", "합성곱    1", "ab      100"]


@pytest.mark.parametrize("width", range(1, 60))
def test_no_value_is_ever_cut(width):
    columns = [Column("row", right=False), *(Column(f"c{i}", block=i // 2) for i in range(1, 7))]
    text = plain(table(columns, rows(3, 7), width))
    assert all(f"r{r}c{c}" in text.split() for r in range(3) for c in range(7))
    # Two columns are the least that a line can have.
    assert max(map(cells, text.split("\n"))) <= max(width, 10)


def test_a_block_stays_together_where_it_fits():
    columns = [Column("row", right=False), *(Column(f"c{i}", block=i // 3) for i in range(6))]
    parts = plain(table(columns, rows(1, 7), 24)).split("\n\n")
    assert [part.split("\n")[0].split() for part in parts] == [["row", "c0", "c1", "c2"], ["row", "c3", "c4", "c5"]]


@pytest.mark.parametrize("width", range(4, 40))
def test_wrapped_text_keeps_its_words(width):
    text = "one two  three 네 다섯 여섯 a-very-long-word-indeed end"
    lines = wrapped(text, width)
    assert " ".join(lines).split() == text.split()
    assert all(cells(line) <= width or " " not in line for line in lines)


def test_fields_hang_under_their_names():
    text = plain(fields([("a", "one two"), ("", ""), ("long", "x\ny")], 10))
    assert text == "a     one\n      two\n\nlong  x\n      y"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (72, "72"),
        (999, "999"),
        (999.5, "1.00 k"),
        (1000, "1.00 k"),
        (73_728, "73.7 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (231_211_008, "231 M"),
        (1e11, "100 G"),
        (0.5, "0.500"),
        (-1500, "-1.50 k"),
        (1e21, "1000 E"),
    ],
)
def test_short(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.616, "4.62"),
        (171.05, "171"),
        (15_432, "15400"),
        (0.012345, "0.0123"),
        (9.996, "10.0"),
        (99.96, "100"),
        (0, "0"),
    ],
)
def test_digits(value, text):
    assert digits(value) == text


def test_other_numbers():
    assert [ratio(v) for v in (1, 0.1189, 0.0156, 0.000423, 22.33)] == ["1.000", "0.119", "0.016", "0.00042", "22.3"]
    assert [percent(v) for v in (0.43, 0.007, 0.0995, 1.5, 0.0004, 0)] == [
        "43%",
        "0.7%",
        "10%",
        "150%",
        "<0.1%",
        "0.0%",
    ]
    assert [times(v) for v in (1.94, 64, 128.4)] == ["1.9×", "64×", "128×"]
    assert [each(v) for v in ((3, 3), (3, 5), (2,))] == ["3", "3×5", "2"]


RECORDS = [{"a": 1, "b": 'x, "y"\tz\nw', "c": None, "d": [3, 3], "e": True, "f": 0.5}]


def test_delimited_text_reads_back():
    assert list(csv.DictReader(io.StringIO(comma_separated(RECORDS)))) == [
        {"a": "1", "b": 'x, "y"\tz\nw', "c": "", "d": "3x3", "e": "true", "f": "0.5"}
    ]
    head, body = tab_separated(RECORDS).split("\n")
    assert dict(zip(head.split("\t"), body.split("\t"), strict=True))["b"] == 'x, "y" z w'


def test_markdown_escapes_bars():
    lines = markdown(["a", "합"], [["x|y", "1"]], [False, True]).split("\n")
    assert lines == ["| a    |  합 |", "| ---- | --: |", "| x\\|y |   1 |"]


def test_files_are_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write(path, "one")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write(path, "two")
    assert path.read_text() == "one\n"
    write(path, "two\n", overwrite=True)
    assert path.read_text() == "two\n"
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "no" / "a.txt", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
