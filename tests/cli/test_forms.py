# SPDX-License-Identifier: Apache-2.0
"""The forms a result leaves in, and the files it goes to."""

from __future__ import annotations

import csv
import html.parser
import json

import pytest

COMMANDS = ["compare 64 128 56", "explain transposed 16 8 8 --proof", "families", "doctor -q"]


@pytest.fixture(autouse=True)
def _machine(machine):
    """Nothing is measured here."""


@pytest.mark.parametrize("command", ["", "accelerate", "compare", "explain", "families", "profile", "bench", "doctor"])
def test_help(call, command):
    result = call(f"{command} --help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: omniconv")
    assert "\x08" not in result.stdout
    if command:
        assert {"--json", "--format", "--output", "--lang", "--no-color", "--quiet"} <= set(
            result.stdout.replace(",", " ").split()
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_form_of_every_command(call, command):
    facts = json.loads(call(f"{command} --json").stdout)
    assert facts["schema"] == 1
    assert call(f"{command} --format json").stdout == call(f"{command} --json").stdout
    table = list(csv.reader(call(f"{command} --format csv").stdout.splitlines()))
    assert len({len(row) for row in table}) == 1
    assert len(table) >= 2
    assert call(f"{command} --format md").stdout.strip()
    human = call(f"{command} --format human").stdout
    assert "\t" not in human
    assert "\x1b" not in human
    plain = call(command).stdout
    assert plain == call(f"{command} --format plain").stdout
    assert "\t" in plain


def test_markdown_is_a_table(call):
    lines = call("compare 64 128 56 --format md").stdout.splitlines()
    assert [line.count("|") for line in lines[:13]] == [7] * 13
    assert set(lines[1]) == set("|-: ")


def test_csv_holds_the_numbers(call):
    rows = {row["family"]: row for row in csv.DictReader(call("compare 64 128 56 --format csv").stdout.splitlines())}
    assert rows["standard"]["macs"] == "231211008"
    assert rows["standard"]["receptive_field"] == "3x3"
    assert rows["standard"]["time_ms"] == ""


@pytest.mark.parametrize("suffix", ["json", "csv", "md", "tsv", "txt", "html"])
def test_a_file_takes_its_form_from_its_suffix(call, tmp_path, suffix):
    path = tmp_path / f"out.{suffix}"
    result = call(f"compare 64 128 56 -o {path}")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"wrote {path}\n")
    text = path.read_text()
    assert text.startswith(
        {"json": "{", "csv": "family,", "md": "| family", "tsv": "family\t", "txt": "position"}.get(suffix, "<!doc")
    )
    assert text.endswith("\n")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_that_exists_is_not_overwritten(call, tmp_path):
    path = tmp_path / "out.json"
    path.write_text("mine")
    for line in (f"compare 64 128 56 -o {path}", f"compare 64 128 56 --html {path}"):
        result = call(line)
        assert result.exit_code == 2
        assert "exists already; use another name, or --force" in result.stderr
        assert path.read_text() == "mine"
    assert call(f"compare 64 128 56 -o {path} --force -q").exit_code == 0
    assert json.loads(path.read_text())["schema"] == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("compare 64 128 56 -o {}/a.foo", "must end in .json"),
        ("compare 64 128 56 -o {}/a.csv --json", "ask for two formats"),
        ("compare 64 128 56 -o {}/no/a.csv", "is no folder"),
        ("compare 64 128 56 -o {}", "is a directory"),
        ("compare 64 128 56 -o {0}/a.html --html {0}/b/../a.html", "name one file; use two"),
        ("compare 64 128 56 --lang fr", "'fr' is not one of"),
    ],
)
def test_files_that_cannot_be(call, tmp_path, line, said):
    result = call(line.format(tmp_path))
    assert result.exit_code == 2
    assert said in result.stderr
    assert list(tmp_path.iterdir()) == []


class Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.data, self.outside = [], set(), [], []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.outside += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data.append(data)


def test_the_page_needs_nothing_else(call, tmp_path):
    path = tmp_path / "page.html"
    assert call(f"compare 64 128 56 --html {path} --json").exit_code == 0
    tags = Tags()
    tags.feed(path.read_text())
    assert (tags.open, tags.outside) == ([], [])
    assert {"table", "svg"} <= tags.seen
    assert json.loads("".join(tags.data)) == json.loads(call("compare 64 128 56 --json").stdout)


def test_korean_headings_and_english_keys(call):
    human = call("compare 64 128 56 --format human --lang ko").stdout
    assert "깊이별 분리 합성곱" in human
    assert "매개변수" in human
    for form in ("--json", "--format csv", ""):
        assert call(f"compare 64 128 56 {form} --lang ko").stdout == call(f"compare 64 128 56 {form}").stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_says_its_language(call, tmp_path, command):
    for lang in ("en", "ko"):
        path = tmp_path / f"{lang}.html"
        assert call(f"{command} -o {path} --lang {lang}").exit_code == 0
        assert f'<html lang="{lang}">' in path.read_text()


def test_language_from_the_environment(call, monkeypatch):
    monkeypatch.setenv("OMNICONV_LANG", "ko")
    assert "표준 합성곱" in call("compare 64 128 56 --format human").stdout


def test_what_nobody_foresaw_is_one_line(call, monkeypatch):
    def broken(*arguments, **options):
        raise OverflowError("too much")

    monkeypatch.setattr("omniconv.analysis.comparison.compare.compare", broken)
    result = call("compare 64 128 56")
    assert (result.exit_code, result.stderr) == (1, "Error: OverflowError: too much (-v shows where)\n")
    assert isinstance(call("compare 64 128 56 -v").exception, OverflowError)
