"""A new chapter runs, passes the schema, and has every section."""

import shutil
from pathlib import Path

import jupytext
import pytest
import yaml

from book import cards, chapters, form, lint, reference, scaffold
from book.errors import PressError

REPOSITORY = Path(__file__).parents[2]


def test_the_draft_has_every_section_and_a_card(tree):
    assert tree.press("new", "new-method")[0] == 0
    text = chapters.chapter_path("new-method").read_text()
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == chapters.SECTIONS
    assert "{card}" in text
    assert "{dropdown} 中文" in text
    assert cards.load("new-method").draft


def test_the_draft_is_written_as_jupytext_writes_it(tree):
    scaffold.create("new-method")
    text = chapters.chapter_path("new-method").read_text()
    notebook = jupytext.reads(text, fmt="md:myst")
    cells = jupytext.writes(notebook, fmt="md:myst").split("---\n", 2)[2]
    assert text.split("---\n", 2)[2] == cells


def test_the_draft_is_laid_out_well_and_keeps_to_the_form_of_a_chapter(tree):
    scaffold.create("new-method")
    shutil.copy(REPOSITORY / "pyproject.toml", tree.root)
    assert lint.findings("new-method") == []
    measured = vars(form.measure("new-method"))
    assert {name: measured[name] for name, aim in form.AIMS.items() if measured[name] > aim} == {}


def test_the_draft_compares_two_methods_and_is_accepted_at_smoke_and_quick(tree):
    shutil.copytree(REPOSITORY / "fedlib", tree.root / "fedlib", dirs_exist_ok=True)
    scaffold.create("new-method")
    card = chapters.card_path("new-method")
    card.write_text(
        card.read_text().replace("claims: []\n", "").replace("\n# ", "\n").replace("\nA claim", "\n# A claim")
    )
    assert [claim.kind for claim in cards.load("new-method").claims] == ["primary"]
    for profile in ("smoke", "quick"):
        record = tree.run("new-method", profile)
        assert record["status"] == "ok", record["error"]
        assert tree.press("accept", "new-method", "--profile", profile)[0] == 0
    status, output = tree.press("check")
    assert status == 0, output
    seen = reference.committed("new-method", "quick")
    assert len(seen["seeds"]) == 3
    assert set(seen["metrics"]) == {"accuracy/fedavg", "accuracy/fedprox"}
    assert seen["claims"]["fedprox-wins"]["value"] is not None
    assert seen["metrics"]["accuracy/fedavg"]["mean"] > 0.3, "ten digits: chance is 0.1"


def test_the_off_switch_that_the_draft_names_is_fedavg(tree):
    shutil.copytree(REPOSITORY / "fedlib", tree.root / "fedlib", dirs_exist_ok=True)
    scaffold.create("new-method")
    seen = tree.run("new-method", "smoke", overrides={"mu": 0.0})["evidence"]["metrics"]
    assert seen["accuracy/fedprox"] == seen["accuracy/fedavg"]


def test_the_register_fills_in_what_it_knows(tree):
    path = tree.root / "book" / "entries.yml"
    path.parent.mkdir()
    entry = {"number": 16, "slug": "moon", "noted": "2021-09-18", "heading": "MOON: contrast", "part": cards.PARTS[4]}
    path.write_text(yaml.safe_dump([entry]))
    scaffold.create("moon")
    card = cards.load("moon")
    assert (card.entry, card.title, card.part) == (16, "MOON: contrast", cards.PARTS[4])
    assert str(card.noted[0]) == "2021-09-18"


@pytest.mark.parametrize("slug", ["Moon", "16-moon", "my_chapter", "a/b", "../a", ""])
def test_a_slug_of_another_form_is_refused(tree, slug):
    with pytest.raises(PressError, match="cannot be a slug"):
        scaffold.create(slug)


def test_nothing_is_overwritten(tree):
    tree.add("demo")
    before = chapters.chapter_path("demo").read_bytes()
    with pytest.raises(PressError, match="is there already"):
        scaffold.create("demo")
    assert chapters.chapter_path("demo").read_bytes() == before


def test_a_folder_of_the_book_is_no_slug(tree):
    status, output = tree.press("new", "fedlib")
    assert status == 2
    assert "'fedlib' cannot be a slug: it is a folder of the book itself" in output
    assert not (tree.root / "papers" / "fedlib").exists()
