"""Pictures with a caption: figures that are numbered, linked to, and shown a first time on the first screen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from miniature import PAGE, PNG_TEXT, Book, text_of

from book import chapters

CELL = "```{code-cell} ipython3\n1 + 1  # two\n```\n"
CAPTION = """
```{caption} dot
A dot of *one* pixel. Look at **where** it lies.
```
"""
SHORT = "## In short\n\n```{lead} dot\n```\n\nIt lies as {figure-ref}`dot` shows.\n\n"
PICTURE = {"data": {"image/png": PNG_TEXT}, "metadata": {"image/png": {"alt": "A dot.", "width": 70, "height": 30}}}


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.delenv("FEDBOOK_DRAFT", raising=False)
    book = Book(tmp_path)
    book.edit("papers/mini/chapter.md", CELL, CELL + CAPTION)
    book.edit("papers/mini/chapter.md", "```{code-cell} ipython3\n:tags", SHORT + "```{code-cell} ipython3\n:tags")
    return book


def figures(html: str) -> list[str]:
    return re.findall(r"<figure.*?</figure>", html, re.DOTALL)


def test_a_picture_becomes_a_numbered_figure_with_its_caption_and_keeps_its_alternative_text(book):
    book.execute(output=PICTURE)
    pages, warnings = book.build()
    assert warnings == ""
    _, figure = figures(pages[PAGE])
    assert 'id="figure-dot"' in figure
    assert figure.count("<img") == 1
    assert 'alt="A dot."' in figure
    assert "Figure 1. A dot of" in text_of(figure)
    assert "<strong>where</strong>" in figure
    assert pages[PAGE].index("cell_output") < pages[PAGE].index('id="figure-dot"')


def test_the_first_screen_shows_the_same_file_with_the_caption_and_a_link(book):
    book.execute(output=PICTURE)
    page = book.build()[0][PAGE]
    lead, figure = figures(page)
    assert re.findall(r'src="([^"]+)"', lead) == re.findall(r'src="([^"]+)"', figure)
    assert 'alt="A dot."' in lead
    assert text_of(re.search(r"<figcaption.*", lead, re.DOTALL)[0]).strip().startswith("A dot of")
    assert 'href="#figure-dot"' in lead
    assert "how it was measured" in lead
    assert len(re.findall('id="figure-dot"', page)) == 1


def test_a_reference_is_a_link_with_the_number(book):
    book.execute(output=PICTURE)
    page = book.build()[0][PAGE]
    assert "It lies as Figure 1 shows." in text_of(page)
    link = re.search(r"It lies as (<a .*?</a>) shows", page)[1]
    assert 'href="#figure-dot"' in link


def test_a_draft_has_captions_and_no_first_picture(book, monkeypatch):
    monkeypatch.setenv("FEDBOOK_DRAFT", "1")
    pages, warnings = book.build()
    assert warnings == ""
    (figure,) = figures(pages[PAGE])
    assert "Figure 1. [not run] A dot of" in text_of(figure)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("{figure-ref}`dot`", "{figure-ref}`dott`", "no caption 'dott' on this page; most like it: dot"),
        ("{lead} dot", "{lead} dit", "no caption 'dit' on this page; most like it: dot"),
        ("```{claims}\n", "```{caption} dot\nAgain.\n```\n\n```{claims}\n", "two figures have this label"),
        ("```{claims}\n", "```{caption} b\nB.\n```\n\n```{claims}\n", "caption 'b': stands after no code cell"),
    ],
)
def test_what_does_not_fit_is_said_on_every_build(book, old, new, complaint):
    book.execute(output=PICTURE)
    book.edit("papers/mini/chapter.md", old, new)
    for _ in range(2):
        assert complaint in book.build()[1]


def test_a_caption_without_a_picture_is_said(book):
    book.execute(output="no picture")
    assert "caption 'dot': the cell before it has no picture" in book.build()[1]


def test_a_picture_without_a_caption_is_said_only_where_others_have_one(book):
    book.edit(
        "papers/mini/chapter.md",
        "from fedlib.losses import squared\n```\n",
        "2 + 2\n```\n" + CAPTION.replace("dot\n", "second\n"),
    )
    book.edit("papers/mini/chapter.md", CAPTION, "")
    book.edit("papers/mini/chapter.md", SHORT, "")
    book.execute(output=PICTURE)
    assert "this cell's picture has no caption" in book.build()[1]
    book.edit("papers/mini/chapter.md", CAPTION.replace("dot\n", "second\n"), "")
    assert book.build()[1] == ""
