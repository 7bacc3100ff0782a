# SPDX-License-Identifier: Apache-2.0
"""Every relative link in the documents leads to a file, and every anchor to a heading."""

from __future__ import annotations

import re

import pytest

from tree import ROOT, tracked

FENCE = re.compile(r"^( *)(```|~~~).*?^\1?\2", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(`+)(?:(?!\1).)+?\1", re.DOTALL)
INLINE = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
DEFINITION = re.compile(r"^\s{0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?", re.MULTILINE)
HTML = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=[\"']([^\"'\s]+)")
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:|//")


def links(text):
    """The targets of all links in a Markdown text, code apart."""
    prose = FENCE.sub("", text)
    bare = CODE.sub("", prose)
    return [target for pattern in (INLINE, DEFINITION, HTML) for target in pattern.findall(bare)]


def anchors(text):
    """The anchors that a Markdown text offers, as GitHub derives them from its headings."""
    found, seen = set(re.findall(r"<[^>]+\b(?:id|name)=[\"']([^\"']+)", text)), {}
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)? *$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        count = seen[slug] = seen.get(slug, -1) + 1
        found.add(f"{slug}-{count}" if count else slug)
    return found


def broken(page, text):
    """What is wrong with the links of a text that stands at `page`."""
    for target in links(text):
        if OUTSIDE.match(target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.is_relative_to(ROOT):
            yield f"{target}: leaves the repository"
        elif path and not place.exists():
            yield f"{target}: no such file"
        elif anchor and place.suffix == ".md" and anchor not in anchors(text if place == page else place.read_text()):
            yield f"{target}: no such heading"


def test_links_in_the_documents():
    pages = tracked(".md")
    found = [f"{page.relative_to(ROOT)}: {complaint}" for page in pages for complaint in broken(page, page.read_text())]
    assert not found, "\n".join(found)
    assert pages


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a](nowhere.md)", "no such file"),
        ('[a](<nowhere.md> "title")', "no such file"),
        ("![a](docs/none.png)", "no such file"),
        ("[![badge](none.svg)](LICENSE)", "none.svg: no such file"),
        ("[a]\n\n[a]: nowhere.md", "no such file"),
        ('<img alt="x" src="none.png">', "no such file"),
        ("[a](CHANGELOG.md#nope)", "no such heading"),
        ("# Here\n[a](#there)", "no such heading"),
        ("```\n# fenced\n```\n[a](#fenced)", "no such heading"),
        ("[a](../elsewhere/x.md)", "leaves the repository"),
    ],
)
def test_refuses(text, complaint):
    assert complaint in "; ".join(broken(ROOT / "PAGE.md", text))


@pytest.mark.parametrize(
    "text",
    [
        "[a](LICENSE) [b](src/) [c](https://example.org/x) [d](mailto:a@example.org)",
        "`[a](nowhere.md)`\n```\n[b](nowhere.md)\n```",
        "# What it's *for*: `K` taps\n[a](#what-its-for-k-taps)",
        "# Two\n# Two\n[a](#two) [b](#two-1)",
        "## 한국어 제목\n[a](#한국어-제목)",
        "[a](CHANGELOG.md#unreleased)",
    ],
)
def test_accepts(text):
    assert list(broken(ROOT / "PAGE.md", text)) == []
