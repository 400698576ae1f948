"""The notebook edition of each chapter: plain text, cells that run without the press, a method that can be changed."""

from __future__ import annotations

import math
import os
import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from book import chapters, edition, execute, files, records, reference
from book.errors import PressError
from book.site import press

# A role, a directive, a target, a link to a source, an attribute: MyST that a notebook viewer shows as it is.
LEFT = re.compile(r"\{[a-z][a-z:-]*\}`|^ *(?:`{3,}|:{3,})\{|^\([\w-]+\)=$|\.md[#)]|\]\{[.#]", re.MULTILINE)

EDITED = """\
%%method fedlib.losses.kl
def kl(teacher_logits, student_logits):
    return 2 * (log_softmax(teacher_logits, -1).exp() * student_logits).sum(-1).mean(-1)
"""
MEASURED = """\
import torch
from fedlib import evidence, losses

run = evidence.Run("smoke", [0])
run.record("kl", 0, losses.kd(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])))
run.publish()
"""


def executed(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook as Jupyter would, far from the repository, with nothing of the press around it."""
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    resources = {"metadata": {"path": str(folder)}}
    return NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()


def shown(cell: nbformat.NotebookNode) -> str:
    """What a cell put out, as text."""
    return "\n".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", []))


RUN = press.slugs()[::10]  # the golden notebooks run every chapter's cells at smoke; its edition is run for every tenth


@cache
def made(slug: str) -> nbformat.NotebookNode:
    """An edition, to be looked at."""
    return edition.notebook(slug)


class Edition:
    """The tests of one chapter's edition."""

    slug: str

    def test_it_runs_at_smoke_without_the_press_and_stands_beside_the_book(self, tmp_path):
        if self.slug not in RUN:
            pytest.skip("the editions of every tenth chapter are run")
        notebook = deepcopy(made(self.slug))
        (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        assert parameters.source.count('"quick"') == 1
        parameters.source = parameters.source.replace('"quick"', '"smoke"')
        done = executed(notebook, tmp_path)
        methods = [cell for cell in done.cells if cell.source.startswith("%%method")]
        text = chapters.chapter_path(self.slug).read_text(encoding="utf-8")
        assert len(methods) == len(re.findall(r"^```\{code-of\}", text, re.MULTILINE))
        assert all("the book's own text. Nothing is changed." in shown(cell) for cell in methods)
        beside = [shown(cell) for cell in done.cells if "This run beside the book's" in shown(cell)]
        known = press.measured(self.slug, "smoke") is not None
        assert bool(beside) == known, "a page without evidence has no book"
        assert not known or "This run beside the book's" in shown(done.cells[-2]) + shown(done.cells[-1])
        assert all("at the profile smoke" in text for text in beside)
        assert not any("does not have" in text for text in beside), "metrics of one that the other lacks"

    def test_its_text_is_plain_markdown(self):
        notebook = made(self.slug)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                assert not LEFT.search(cell.source), f"{LEFT.search(cell.source)[0]!r} in {cell.source[:300]}"
            else:
                assert not any(records.EVIDENCE in output.get("data", {}) for output in cell.outputs)
                assert not {"papermill", "execution"} & set(cell.metadata)
        assert str(Path.home()) not in nbformat.writes(notebook)
        assert str(chapters.ROOT) not in nbformat.writes(notebook)


# A class for each chapter: xdist keeps the tests of a class on one worker, and shares classes out.
for _slug in press.slugs():
    _name = "Test" + _slug.title().replace("-", "")
    globals()[_name] = type(_name, (Edition,), {"slug": _slug})


def test_the_same_book_gives_the_same_bytes():
    assert edition.text("feddf") == nbformat.writes(made("feddf")) + "\n"


def test_the_first_code_cell_installs_what_it_is_told_to():
    cells = [c for c in edition.notebook("feddf", source="git+https://example.org/a@b").cells if c.cell_type == "code"]
    assert '%pip install --quiet "fedlib @ git+https://example.org/a@b"' in cells[0].source
    assert 'if importlib.util.find_spec("fedlib") is None:' in cells[0].source


def test_a_notebook_that_a_reader_has_changed_is_kept(tmp_path, monkeypatch):
    made, digests = iter(("first", "second", "third")), iter("aabcd")

    def notebook(slug, source=None):
        found = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(next(made), id="one")])
        found.metadata["edition"] = edition._digest(found)
        return found

    monkeypatch.setattr(edition, "notebook", notebook)
    monkeypatch.setattr(edition.website, "inputs_digest", lambda draft: next(digests))
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "slugs", lambda: ["demo"])
    folder, path = tmp_path / "notebooks", tmp_path / "notebooks" / "demo.ipynb"
    assert edition.write(["demo"], folder) == ([path], [])
    assert edition.write(["demo"], folder) == ([], []), "nothing has changed since"
    found = nbformat.read(path, as_version=4)
    found.cells[0].metadata["collapsed"] = True  # as JupyterLab saves what was only looked at
    nbformat.write(found, path)
    assert edition.write(["demo"], folder) == ([path], [])
    found = nbformat.read(path, as_version=4)
    found.cells[0].source += "  # mine"
    nbformat.write(found, path)
    assert edition.write(["demo"], folder) == ([], [path])
    assert "# mine" in path.read_text(encoding="utf-8")
    path.unlink()
    assert edition.write(["demo"], folder) == ([path], [])
    assert '"third"' in path.read_text(encoding="utf-8")


def test_in_the_presss_own_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(edition, "text", lambda slug, source: "anew")
    path = chapters.build_folder() / "editions" / "demo.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text("of another day")
    assert edition.write(["demo"], path.parent) == ([path], [])
    assert path.read_text() == "anew"


def test_a_changed_method_changes_what_is_measured_and_is_named_in_the_evidence(tmp_path):
    load = "from fedlib.study import beside, method\nmethod.load()\nbeside.hand_over(smoke={'kl': (0.5, None, 1)})"
    cells = [nbformat.v4.new_code_cell(text) for text in (load, EDITED, MEASURED)]
    done = executed(nbformat.v4.new_notebook(cells=cells), tmp_path)
    assert "fedlib.losses.kl is changed in this kernel." in shown(done.cells[1])
    published = records.published(done)
    assert published["changed"] == ["fedlib.losses.kl"]
    sure = 1 / (1 + math.exp(-1))  # softmax of the teacher's 2 and 1; the student has 1 and 2
    assert published["metrics"]["kl"]["0"] == pytest.approx(2 * (sure * 1 + (1 - sure) * 2), rel=1e-6)
    assert "Changed in this kernel: fedlib.losses.kl." in shown(done.cells[2])
    assert "1 of 1 metrics differ" in shown(done.cells[2])


@pytest.fixture
def demo(tree):
    tree.add("demo")
    return tree


def test_the_press_fails_a_run_whose_method_was_changed(demo):
    record = demo.pretend("demo", changed=["fedlib.losses.kd"])
    assert record["status"] == "failed"
    assert "fedlib.losses.kd changed while it ran" in record["error"]["message"]
    status, output = demo.press("accept", "demo")
    assert status != 0
    assert not chapters.evidence_path("demo", "quick").exists(), output


def test_a_run_whose_method_was_changed_is_never_accepted_even_if_its_record_is_good(demo, monkeypatch):
    monkeypatch.setattr(execute, "_fault", lambda evidence, profile: None)
    assert demo.pretend("demo", changed=["fedlib.losses.kd"])["status"] == "ok"
    with pytest.raises(PressError, match=r"fedlib\.losses\.kd changed while it ran"):
        reference.accept("demo", "quick")
    assert not chapters.evidence_path("demo", "quick").exists()


def test_the_same_run_without_a_change_is_accepted(demo):
    assert demo.pretend("demo")["status"] == "ok"
    assert reference.accept("demo", "quick")[0] is None
    assert files.read_json(chapters.evidence_path("demo", "quick"))["slug"] == "demo"
