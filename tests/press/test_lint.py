"""Chapters are linted and formatted like any code, and are told by the line of chapter.md."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from book import blocks, chapters, lint
from book.errors import PressError

REPOSITORY = Path(__file__).parents[2]
UGLY = """
import os
import torch, sys
x = {"a":1,
     "b":2}
x["a"]  # fmt is not told to skip this
print("a line that is far too long for the column of the page, so that its end would be cut off there for every reader")
"""


@pytest.fixture
def linted(tree):
    shutil.copy(REPOSITORY / "pyproject.toml", tree.root)
    return tree


def test_what_is_found_has_the_line_of_the_chapter(linted, capfd):
    source = linted.add("demo", work=UGLY)
    lines = source.read_text().splitlines()
    assert lint.main(["demo"]) == 1
    found = capfd.readouterr().out.splitlines()
    unused = next(line for line in found if "`os` imported but unused" in line)
    where, code = unused.split(" ", 1)
    path, row, _ = where.split(":", 2)
    assert path == "papers/demo/chapter.md"
    assert lines[int(row) - 1] == "import os"
    assert code.startswith("F401")
    crooked = next(line for line in found if "laid out in another way" in line)
    assert lines[int(crooked.split(":")[1]) - 1] == "from fedlib import evidence, toy", "the cell's first line of code"


def test_what_a_cell_shows_and_prints_and_a_function_without_a_docstring_are_no_findings(linted):
    linted.add("demo", work="\n\ndef twice(a):\n    return 2 * a\n\n\nprint(twice(1))\n")
    linted.edit(chapters.chapter_path("demo"), "print(run.table())", "print(run.table())\nrun.seeds")
    assert lint.findings("demo") == []


def test_a_line_that_the_column_cuts_off_is_found_where_no_layout_can_break_it(linted):
    long = "x" * (lint.COLUMN - 3)
    source = linted.add("demo", work=f"# {long}y\n# {long}z!")
    lines = source.read_text().splitlines()
    (found,) = lint.findings("demo")
    assert "E501" in found
    assert lines[int(found.split(":")[1]) - 1].endswith("z!")


def test_a_layout_keeps_the_evidence_fresh_and_everything_outside_the_cells(linted, state):
    source = linted.add("demo", work=UGLY.replace("import torch, sys\n", "import sys\n"))
    linted.edit(
        source,
        "```{code-cell} ipython3\nrun.publish()",
        "```{code-cell} ipython3\n:tags: [hide-cell]\n\nrun.publish( )",
    )
    linted.pretend("demo")
    before = source.read_text()
    assert lint.mend("demo") is True
    after = source.read_text()
    assert state("demo") == "fresh"
    assert lint.mend("demo") is False
    assert not any("laid out" in line for line in lint.findings("demo"))

    def outside(text):
        return [(b.kind, b.options, b.lines if b.kind != "code-cell" else None) for b in blocks.blocks(text)]

    assert outside(after) == outside(before)
    assert '"a": 1' in after


def test_what_ruff_mends_is_mended_when_asked_for_and_makes_the_evidence_stale(linted, state):
    source = linted.add("demo", work=UGLY)
    linted.pretend("demo")
    assert lint.main(["demo", "--fix"]) == 0
    assert "import os" not in source.read_text()
    assert state("demo") == "stale"


def test_a_layout_that_changes_what_a_cell_does_is_refused(linted, monkeypatch):
    source = linted.add("demo", work="x = {'a':1}")
    before = source.read_text()
    right = lint._laid_out
    monkeypatch.setattr(lint, "_laid_out", lambda *a: [code.replace("1", "2") for code in right(*a)])
    with pytest.raises(PressError, match="its cells would do something else; nothing was written"):
        lint.mend("demo")
    assert source.read_text() == before


def test_a_cell_that_is_no_python_is_found_and_left_as_it_is(linted):
    source = linted.add("demo", work="x = = 1")
    before = source.read_text()
    assert any(":" in line and "Expected an expression" in line for line in lint.findings("demo"))
    assert lint.mend("demo") is False
    assert source.read_text() == before


def test_a_page_that_nobody_finds_is_an_error_of_lint(linted, capfd):
    linted.add("demo")
    lint.main(["--format"])
    assert lint.main([]) == 0
    (linted.root / "index.md").touch()
    (linted.root / "_toc.yml").write_text("root: index\nparts: []\n")
    capfd.readouterr()
    assert lint.main([]) == 1
    assert "papers/demo/chapter.md is not in _toc.yml" in capfd.readouterr().out


def test_blocks_hold_every_line_of_a_chapter_in_its_place():
    for path in sorted((REPOSITORY / "papers").glob("*/chapter.md")):
        lines = path.read_text().splitlines()
        for block in blocks.blocks(path.read_text()):
            assert list(block.lines) == lines[block.first - 1 : block.first - 1 + len(block.lines)]


def test_cells_are_those_that_jupytext_reads():
    for slug in chapters.slugs():
        cells = blocks.code_cells(chapters.chapter_path(slug).read_text())
        read = chapters.code_cells(chapters.read(slug))
        assert [(c.text.strip(), c.tags) for c in cells] == [(c.source.strip(), chapters.tags(c)) for c in read]


def test_the_press_lints_too_and_a_wrong_slug_ends_with_2(linted):
    linted.add("demo")
    linted.press("lint", "demo", "--format")
    assert linted.press("lint", "demo")[0] == 0
    status, output = linted.press("lint", "demmo")
    assert status == 2
    assert "there is no chapter 'demmo'" in output
    call = [sys.executable, "-m", "book.lint", "demmo"]
    done = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no chapter 'demmo'")


@pytest.mark.parametrize(
    ("work", "told"),
    [
        ("evidence.Run.record = None", "evidence.Run.record is the library's: a chapter does not change it"),
        ("evidence.Run.seeds += 1", "evidence.Run.seeds is the library's"),
        ("import fedlib.toy as t\n\nt.score = abs", "t.score is the library's"),
        ("setattr(toy, 'score', abs)", "toy is the library's"),
        ("del toy.score", "toy.score is the library's"),
        ("%%method fedlib.toy.score\npass", "%%method edits the library"),
    ],
)
def test_a_chapter_does_not_change_the_library(linted, work, told):
    linted.add("demo", work=work)
    assert any(told in line for line in lint.findings("demo")), lint.findings("demo")


def test_no_chapter_of_the_book_changes_the_library():
    assert [line for slug in chapters.slugs() for line in lint.changes_of_the_library(slug)] == []


def test_a_chapter_may_set_what_is_its_own(linted):
    linted.add("demo", work="own = type('Own', (), {})()\nown.rate = 1\nrun.note = 2")
    assert lint.changes_of_the_library("demo") == []
