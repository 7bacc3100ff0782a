# SPDX-License-Identifier: Apache-2.0
"""The pages of the reference networks: each network on one, with its paper, and tables that are those of today."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from network_pages import PAGES, main, networks, renewed
from omniconv.models.catalogue import NETWORKS
from tree import ROOT

PAPER = r"\[{}\]\(https://(arxiv\.org/abs|doi\.org)/\S+\)"
FILES = sorted(PAGES.glob("*.md"))


def read(page):
    return page.read_text(encoding="utf-8")


def test_every_network_has_one_page():
    found = Counter(name for page in FILES for name in networks(read(page)))
    assert found == Counter(NETWORKS.keys())


@pytest.mark.parametrize("page", FILES, ids=lambda page: page.stem)
def test_a_page_says_what_its_reader_needs(page):
    text = read(page)
    parts = re.findall(r"^#+ .*", text, re.MULTILINE)
    assert parts[1:] == ["## Cost by family", "## Use", "## Where it differs"]
    assert "**Wrong where**" in text
    (block,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert "models.create(" in block
    assert any(f'"{name}"' in block for name in networks(text))
    for name in networks(text):
        for paper in NETWORKS[name].paper.split("; "):
            assert re.search(PAPER.format(re.escape(paper)), text), paper


def test_the_list_links_every_page_beside_its_networks():
    text = read(ROOT / "docs" / "models.md")
    for page in FILES:
        (line,) = [line for line in text.splitlines() if f"](models/{page.name})" in line]
        assert set(re.findall(r"`(\w+)`", line)) >= set(networks(read(page)))


@pytest.mark.parametrize("page", FILES, ids=lambda page: page.stem)
def test_tables_are_those_of_today(page):
    assert renewed(read(page)) == read(page)


def test_a_stale_table_is_found_and_mended(tmp_path, capsys):
    right = read(PAGES / "effnet.md")
    page = tmp_path / "effnet.md"
    page.write_text(right.replace("112,746", "112,747"), encoding="utf-8")
    assert renewed(read(page)) == right != read(page)
    assert main([str(page)]) == 0
    assert capsys.readouterr().out.strip() in right
    assert main(["--write", str(page)]) == 0
    assert read(page) == right


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# A page", "no <!-- cost: NAME -->"),
        ("<!-- cost: effnet -->\n", "no <!-- cost: NAME -->"),
        ("<!-- cost: effnet, nonet -->\n<!-- /cost -->", "no network 'nonet'"),
    ],
)
def test_a_page_about_no_network(tmp_path, capsys, text, complaint):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(SystemExit):
        main([str(page)])
    assert complaint in capsys.readouterr().err
