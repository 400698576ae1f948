"""Every role and directive of every chapter names what exists, by the committed evidence: nothing needs to run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from book import chapters, edition, reference
from book.errors import PressError
from book.site import plain, press

SITE = "https://example.org/"


@pytest.fixture(autouse=True)
def clone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a clone in which nothing was executed."""
    monkeypatch.setattr(reference, "run_evidence", lambda *_: None)
    monkeypatch.setattr(press, "executed_path", lambda slug: chapters.ROOT / "nowhere")
    press.forget_states()
    monkeypatch.setattr(press, "state", lambda slug: press.State("never"))
    yield
    monkeypatch.undo()
    press.forget_states()


@pytest.mark.parametrize("slug", chapters.slugs())
def test_what_the_text_names_exists(slug):
    notebook = chapters.read(slug)
    tell = plain.Plain(slug, notebook, SITE, draft=True)
    for cell in plain.markdown(notebook):
        tell(tell.measured(cell.source))


@pytest.mark.parametrize(
    "quoted", ["measured}`accuracy/mooon", "measured}`accuracy/mooon @real", "setting}`roundss @full"]
)
def test_a_typo_is_found_without_a_run(quoted):
    tell = plain.measured("moon", "")
    with pytest.raises(ValueError, match=r"no (metric|setting)"):
        tell(f"{{{quoted}`")


def test_an_edition_in_a_clone_has_the_committed_numbers_and_says_so():
    notebook = edition.notebook("moon")
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "[not run]" not in text.replace("@full", "")
    assert "Numbers in the text are those of the committed quick run" in text
    assert "you need not import them" in text
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_an_edition_names_a_work_that_the_bibliography_lacks(monkeypatch):
    source = chapters.read("moon")
    plain.markdown(source)[0].source += "\n{cite}`li2021modell`"
    monkeypatch.setattr(chapters, "read", lambda slug: source)
    with pytest.raises(
        PressError, match=r"cited work 'li2021modell' is not in book/references\.bib; most like it: li2021model"
    ):
        edition.notebook("moon")
