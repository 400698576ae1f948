"""Goldens: what nbval compares, and goldens that would guard nothing."""

import os
import subprocess
import sys

import nbformat
import pytest

from book import chapters, golden
from book.errors import PressError


def nbval(path):
    """Exit status of nbval on one notebook."""
    call = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--nbval-lax",
        "--nbval-current-env",
        str(path),
    ]
    return subprocess.run(call, cwd=path.parent, env=os.environ, capture_output=True, text=True, timeout=120).returncode


def test_nbval_passes_on_a_golden_and_fails_when_a_number_moves(tree):
    tree.add("demo")
    assert tree.run("demo", "smoke")["status"] == "ok"
    assert golden.accept("demo")
    path = chapters.golden_path("demo")
    assert nbval(path) == 0
    tree.edit("fedlib/toy.py", "+ rate", "+ 2 * rate")
    assert nbval(path) == 1


def test_the_golden_holds_the_smoke_profile_and_nothing_volatile(tree):
    tree.add("demo")
    tree.pretend("demo", "smoke")
    golden.accept("demo")
    path = chapters.golden_path("demo")
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.startswith("profile = 'smoke'\nseed = 0\n")
    assert all(c.cell_type == "code" for c in notebook.cells), "an edit of the prose does not touch it"
    assert [bool(c.outputs) for c in notebook.cells] == [False, False, True, False]
    before = path.read_bytes()
    tree.pretend("demo", "smoke", peak_memory_mb=99.0)
    assert not golden.accept("demo")
    assert path.read_bytes() == before
    assert golden.problems("demo") == []


def test_images_are_dropped(tree):
    data = {"image/png": "aaaa", "text/plain": "<Figure>"}
    kept = golden._output(nbformat.v4.new_output("display_data", data=data, metadata={"needs": "light"}))
    assert kept["data"] == {"text/plain": "<Figure>"}
    assert kept["metadata"] == {}


def test_a_golden_of_other_code_is_told(tree):
    source = tree.add("demo")
    tree.pretend("demo", "smoke")
    golden.accept("demo")
    tree.edit(source, "rate = 0.5", "rate = 0.25")
    (problem,) = golden.problems("demo")
    assert "holds other code than the chapter" in problem
    tree.pretend("demo")
    assert problem in tree.press("check")[1]


def test_a_chapter_without_checked_cell_gets_no_golden(tree):
    tree.edit(tree.add("demo"), ":tags: [nbval-check-output]\n", "")
    tree.pretend("demo", "smoke")
    with pytest.raises(PressError, match="no cell is tagged 'nbval-check-output'"):
        golden.accept("demo")
    assert not chapters.golden_path("demo").exists()


def test_a_golden_emptied_by_hand_is_told(tree):
    tree.add("demo")
    tree.pretend("demo", "smoke")
    golden.accept("demo")
    path = chapters.golden_path("demo")
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, path)
    assert any("has no output" in p for p in golden.problems("demo"))


@pytest.mark.parametrize(
    ("source", "baked"),
    [
        ('profile = "quick"\nseed = 0', "profile = 'smoke'\nseed = 0"),
        ('profile: str = "quick"  # scale', "profile: str = 'smoke'  # scale"),
        ('x = "é"; profile = "quick"', "x = \"é\"; profile = 'smoke'"),
    ],
)
def test_only_the_named_literal_is_replaced(source, baked):
    assert golden.bake(source, {"profile": "smoke"}) == baked
