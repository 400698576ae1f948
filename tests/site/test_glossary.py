"""The glossary: terms in order, each explained once and in few words, and used by every chapter."""

from __future__ import annotations

import re

import pytest

from book import chapters

PAGE = chapters.ROOT / "book" / "pages" / "glossary.md"


@pytest.fixture(scope="module")
def terms() -> dict[str, str]:
    body = PAGE.read_text(encoding="utf-8").split("```{glossary}\n")[1].rsplit("```", 1)[0]
    found = re.findall(r"^(\S.*)\n((?:  .*\n?)+)", body, re.MULTILINE)
    assert len(found) == len({term for term, _ in found}), "a term is explained twice"
    return {term: re.sub(r"\s+", " ", text).strip() for term, text in found}


def test_terms_are_explained_in_few_words_and_stand_in_order(terms):
    assert 40 <= len(terms) <= 90
    assert list(terms) == sorted(terms, key=str.lower)
    for term, text in terms.items():
        assert text.endswith("."), f"{term}: {text}"
        assert 4 <= len(text.split()) <= 40, f"{term}: {text}"


def test_every_chapter_links_its_terms_before_its_method(terms):
    """That the terms exist is Sphinx's own check: a build with warnings is refused."""
    for path in sorted(chapters.ROOT.glob("papers/*/chapter.md")):
        opening = path.read_text(encoding="utf-8").split("\n## Method")[0]
        used = [re.sub(r"\s+", " ", t) for t in re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", opening)]
        assert used, f"{path.parent.name} links no term of the glossary"
        assert len(used) == len(set(used)), f"{path.parent.name} links a term twice: {used}"
        assert set(used) <= set(terms), f"{path.parent.name}: {set(used) - set(terms)} not in the glossary"
