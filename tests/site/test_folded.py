"""Folded code cells say what they hold."""

import re

import pytest
from miniature import PAGE, Book, text_of

from book import chapters
from book.site import folded


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import torch\nx = 1\ndef f():\n    y = 2\nclass A: pass\n", "f, A, x"),
        ("import torch", "imports"),
        ("a = b = c = d = e = 1", "a, b, c, d, …"),
        ("print(1)", ""),
        ("%%method fedlib.losses.kd\ndef kd(): pass", ""),
    ],
)
def test_a_cell_is_told_by_what_it_defines(source, words):
    assert folded.defined(source) == words


def test_a_folded_cell_says_what_it_defines(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.delenv("FEDBOOK_DRAFT", raising=False)
    book = Book(tmp_path)
    cell = "```{code-cell} ipython3\n:tags: [hide-input]\nhidden = 1\n```\n\n"
    book.edit("papers/mini/chapter.md", "```{code-cell} ipython3\n1 + 1", cell + "```{code-cell} ipython3\n1 + 1")
    book.execute()
    page = book.build()[0][PAGE]
    summaries = map(text_of, re.findall(r"<summary.*?</summary>", page, re.DOTALL))
    assert any("Show code: hidden" in words for words in summaries)
