"""The Sphinx extensions on a throw-away book: what is grafted, what is refused, what is said about it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml
from docutils import nodes
from miniature import CARD, PAGE, PNG, PNG_TEXT, Book, text_of

from book import chapters, records, reference
from book.site import evidence, executed, press


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.delenv("FEDBOOK_DRAFT", raising=False)
    return Book(tmp_path)


def test_fresh_chapter_shows_its_outputs_and_warns_of_nothing(book):
    book.execute(output="two, as computed")
    pages, warnings = book.build()
    assert "two, as computed" in pages[PAGE]
    assert "The sum is exactly two." in text_of(pages[PAGE])
    assert "injected" not in pages[PAGE]
    assert "draft-notice" not in pages[PAGE]
    assert warnings == ""


def test_chapter_never_executed_is_refused_on_every_build(book):
    for _ in range(2):  # the second build reads nothing anew, and must still complain
        pages, warnings = book.build()
        assert "papers/mini/chapter: never executed" in warnings
        assert "make run P=mini" in warnings
    assert "draft-never" in pages[PAGE]


def test_stale_chapter_is_refused_and_shows_no_output_of_the_edited_cell(book):
    book.execute(output="two, as computed")
    book.edit("papers/mini/chapter.md", "1 + 1  # two", "1 + 2")
    for _ in range(2):
        pages, warnings = book.build()
        assert "papers/mini/chapter: stale" in warnings
    assert "draft-stale" in pages[PAGE]
    assert "two, as computed" not in pages[PAGE]


def test_edited_library_makes_a_chapter_stale_and_keeps_outputs_of_unchanged_cells(book):
    book.execute(output="two, as computed")
    assert book.build()[1] == ""
    book.edit("fedlib/losses.py", "difference**2", "difference**4")
    pages, warnings = book.build()
    assert "fedlib.losses" in warnings
    assert "two, as computed" in pages[PAGE]
    assert "draft-stale" in pages[PAGE]


def test_edited_prose_and_comments_leave_a_chapter_fresh(book):
    book.execute(output="two, as computed")
    book.edit("papers/mini/chapter.md", "# two", "# the sum")
    book.edit("papers/mini/chapter.md", "两句话", "三句话")
    pages, warnings = book.build()
    assert warnings == ""
    assert "two, as computed" in pages[PAGE]
    assert "draft-notice" not in pages[PAGE]


def test_failed_chapter_is_refused_and_says_why(book):
    book.execute(status="failed")
    pages, warnings = book.build()
    assert "the last run failed" in warnings
    assert "it broke" in warnings
    assert "draft-failed" in pages[PAGE]


def test_draft_marks_the_page_without_a_warning(book, monkeypatch):
    monkeypatch.setenv("FEDBOOK_DRAFT", "1")
    pages, warnings = book.build()
    assert warnings == ""
    assert "Draft: never executed" in text_of(pages[PAGE])
    assert "The sum is [not run]." in text_of(pages[PAGE])


def test_a_new_run_is_shown_though_no_source_changed(book):
    book.execute(output="the first run")
    book.build()
    book.execute(output="the second run")
    assert "the second run" in book.build()[0][PAGE]


def test_new_evidence_redraws_the_pages_that_show_it(book):
    assert "not run" in text_of(book.build()[0]["index.html"])
    book.execute()
    pages, _ = book.build()
    assert "0123456" in pages["index.html"]
    assert "✓ holds" in text_of(pages[PAGE])


def test_evidence_measured_with_earlier_code_says_so(book):
    book.execute()
    made = reference.run_evidence("mini", "quick")
    made |= {"profile": "full"}
    made["dependencies"]["data"] = {"stars": "unknown:0123"}
    book.write("papers/mini/evidence/full.json", json.dumps(made | {"digest": records.digest(made)}))
    assert "earlier code" not in text_of(book.build()[0][PAGE])
    assert "on unknown data (stars)" in text_of(book.build()[0][PAGE])
    book.edit("fedlib/losses.py", "difference**2", "difference**4")
    page = text_of(book.build()[0][PAGE])
    ledger = page[page.index("The paper") : page.index("Metric")]
    assert ledger.count("measured with earlier code (0123456)") == 1, "once under the ledger, not in each cell"


def test_card_and_descriptions_come_from_the_card(book):
    page = book.build()[0][PAGE]
    words = text_of(page)
    assert '<meta content="What a chapter is, as small as it can be." name="description"' in page
    for expected in ("Nobody. Nowhere 2020", "2020-10-16", "small", "make run P=mini", "not run"):
        assert expected in words, expected


def test_an_executed_page_of_the_book_is_drawn_like_a_chapter_about_no_paper(book):
    """There may be none; this one stands for those that will come."""
    about_no_paper = (
        CARD | dict.fromkeys(("part", "citation", "authors", "venue", "entry")) | {"noted": [], "claims": []}
    )
    (book.root / "papers" / "mini").rename(book.root / "page")
    (book.root / "book" / "pages").mkdir()
    (book.root / "page").rename(book.root / "book" / "pages" / "mini")
    book.write("book/pages/mini/paper.yml", yaml.safe_dump(about_no_paper))
    book.edit("index.md", "papers/mini/chapter", "book/pages/mini/chapter")
    assert chapters.slugs() == ["mini"]
    book.execute(output="two, as computed")
    pages, warnings = book.build()
    page = pages["book/pages/mini/chapter.html"]
    assert warnings == ""
    assert "two, as computed" in page
    assert 'href="../../../notebooks/mini.ipynb"' in page
    assert (book.root / "_build/html/notebooks/mini.ipynb").is_file()
    assert "Paper" not in re.findall(r"<dt[^>]*>(\w+)", page)


def test_profile_never_run_says_how_to_run_it(book):
    words = text_of(book.build()[0][PAGE])
    assert "No evidence at the full profile" in words
    assert "--profile full" in words


def test_reading_log_marks_what_is_not_written(book):
    index = book.build()[0]["index.html"]
    assert "2 notes; 1 of them have a chapter so far" in text_of(index)
    assert 'href="papers/mini/chapter.html"' in index
    assert text_of(index).count("The second not yet written") == 1


def test_chinese_box_says_its_language(book):
    assert '<details lang="zh"' in book.build()[0][PAGE]


def test_code_is_pulled_by_name_without_its_docstring(book):
    page = book.build()[0][PAGE]
    words = text_of(page)
    assert "difference ** 2" in words.replace("**2", " ** 2").replace("  ", " ")
    assert "which the page leaves out" not in words
    assert 'href="../../fedlib/losses.html#squared"' in page
    assert 'href="../../tests/unit/test_losses.html#test_squared"' in page


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("losses.squared", "losses.sqared", "Did you mean 'squared'?"),
        ("fedlib.losses.squared", "fedlob.losses.squared", "no module 'fedlob'"),
        ("::test_squared", "::test_cubed", "has no 'test_cubed'"),
        ("tests/unit/test_losses.py", "tests/unit/test_gone.py", "expected path::name of an existing file"),
        ("{evidence} quick", "{evidence} quik", "unknown profile 'quik'"),
    ],
)
def test_what_does_not_exist_is_an_error_on_every_build(book, old, new, complaint):
    book.execute()
    book.edit("papers/mini/chapter.md", old, new)
    for _ in range(2):
        assert complaint in book.build()[1]


def test_malformed_card_stops_the_build_naming_file_and_field(book):
    book.edit("papers/mini/paper.yml", "venue:", "venu:")
    with pytest.raises(Exception, match=r"paper\.yml: venu: no such field"):
        book.build()


def test_image_without_alternative_text_is_a_warning(book):
    book.execute()
    book.edit("papers/mini/chapter.md", "# A miniature\n", "# A miniature\n\n![](dot.png)\n")
    (book.root / "papers/mini/dot.png").write_bytes(PNG)
    assert "no alternative text" in book.build()[1]


def test_alternative_text_of_an_output_reaches_the_page(book):
    book.execute(output={"data": {"image/png": PNG_TEXT}, "metadata": {"image/png": {"alt": "A dot."}}})
    pages, warnings = book.build()
    assert 'alt="A dot."' in pages[PAGE]
    assert warnings == ""


def test_graft_counts_cells_without_a_partner():
    def notebook(*sources: str) -> nbformat.NotebookNode:
        cells = [nbformat.v4.new_code_cell(s) for s in sources]
        for cell in cells:
            cell.outputs = [nbformat.v4.new_output("stream", text=f"of {cell.source}")]
        return nbformat.v4.new_notebook(cells=cells)

    mine, done = notebook("a = 1", "b = 2", "c = 3"), notebook("a = 1  # one", "x = 0", "c = 3")
    for cell in mine.cells:
        cell.outputs = []
    assert executed.graft(mine, done) == 1
    assert [[o.text for o in c.outputs] for c in mine.cells] == [["of a = 1  # one"], [], ["of c = 3"]]


def test_a_long_table_shows_what_claims_judge_and_folds_the_rest(book, monkeypatch):
    monkeypatch.setattr(evidence, "MOST", 0)
    book.execute()
    html = book.build()[0][PAGE]
    tables = re.findall(r'<table class="[^"]*\bevidence\b.*?</table>', html, re.DOTALL)
    assert tables[0].count("<tr") == 1
    assert tables[1].count("<tr") == 2
    assert re.search(r"<details.*?All \d+ metrics.*?</details>", html, re.DOTALL)


def test_the_rows_of_a_long_table_are_those_that_claims_judge():
    table = evidence.shown("moon", "quick", "*")[0]
    short = evidence.fold(table, "moon")
    names = [next(iter(row.findall(nodes.literal))).astext() for row in evidence.rows_of(short)]
    judged = {name for claim in press.card("moon").claims for name in (claim.metric, claim.against)}
    assert len(names) == evidence.MOST
    assert set(names) <= judged
    assert len(evidence.rows_of(table)) > evidence.MOST, "the whole one stays as it is"
    assert evidence.fold(evidence.shown("moon", "quick", "accuracy/moon")[0], "moon") is None


def test_a_cell_that_leads_is_shown_before_the_first_code(book):
    folded = "```{code-cell} ipython3\n:tags: [hide-input]\nx = 0\n```\n\n"
    cell = "```{code-cell} ipython3\n1 + 1"
    book.edit("papers/mini/chapter.md", cell, folded + cell.replace("ipython3\n", "ipython3\n:tags: [lead-output]\n"))
    book.execute(output="two, as computed")
    page = book.build()[0][PAGE]
    assert page.count("two, as computed") == 1
    assert page.index("two, as computed") < page.index("Show code: x")
