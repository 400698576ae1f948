"""One damaged file is one clear line, whatever the command; the rest of the book goes on."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from book import chapters, contents, execute, files, jobs, locking, paper, runner, website

ROOT = Path(__file__).parents[2]
# What a disk, an editor, a killed program or a merge leaves behind. A link to itself cannot be read by anybody, as a
# file without the right to read it cannot (these tests may run as one who has all rights).
FAULTS = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00 garbage \x80\n"),
    "a conflict": lambda path: path.write_bytes(b"<<<<<<< ours\n" + path.read_bytes() + b"=======\n>>>>>>> theirs\n"),
    "a list": lambda path: path.write_bytes(b"[1, 2]\n"),
    "null": lambda path: path.write_bytes(b"null\n"),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "no access": lambda path: (path.unlink(), path.symlink_to(path)),
    "gone": lambda path: path.unlink(),
}
FILES = [
    "papers/bad/chapter.md",
    "papers/bad/paper.yml",
    "papers/bad/evidence/quick.json",
    "papers/bad/evidence/real.json",
    "fedlib/toy.py",
    "book/entries.yml",
    "requirements.txt",
    "tests/golden/bad.ipynb",
    "_toc.yml",
    "_config.yml",
    "_build/executed/bad/quick.ipynb",
    "_build/executed/bad/quick.json",
    "_build/site.json",
    "_build/html/index.html",
    "_build/locks/bad-quick.lock",
    "_build/locks/bad-quick.holder",
    "_build/progress/bad-quick.txt",
    "_build/resume/bad/quick/0123456789abcdef/half.json",
]
COMMANDS = [
    ["list"],
    ["show", "bad"],
    ["check"],
    ["accept", "bad"],
    ["accept", "bad", "--profile", "smoke"],
    ["run"],
    ["run", "bad", "--explain"],
    ["build"],
    ["build", "--draft"],
    ["zip"],
    ["pdf"],
    ["new", "other"],
    ["clean"],
]
TEXTS = {
    "book/entries.yml": '- {number: 1, slug: other, noted: 2021-09-18, heading: "Another", part: Foundations}\n',
    "_config.yml": "title: A book\n",
    "_toc.yml": "root: index\nparts:\n- chapters: [{file: papers/bad/chapter}, {file: papers/good/chapter}]\n",
    "index.md": "",
    "_build/locks/bad-quick.lock": "",
    "_build/locks/bad-quick.holder": "pid 1, since yesterday\n",
    "_build/progress/bad-quick.txt": "[1/3] seed 0\n",
    "_build/resume/bad/quick/0123456789abcdef/half.json": '{"seed": 0, "value": 1.0}\n',
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The book that `book` gives each test a copy of; made by the first of them."""
    return tmp_path_factory.mktemp("whole") / "tree"


@pytest.fixture
def book(tree, monkeypatch, whole):
    """A book with a chapter `bad`, all of whose files are there, and another one; nothing slow is really done."""

    class Child:
        """Stands in for a chapter's process, which has tests of its own."""

        def __init__(self, job, threads):
            self.job = job

        def done(self):
            self.job.status = "ok"
            return True

    def sphinx(draft):
        made = chapters.build_folder() / "new-site" / "_build" / "html"
        for page in contents.pages():
            files.write(made / f"{page}.html", "<p>a page</p>")
        return made

    monkeypatch.setattr(runner, "Child", Child)
    monkeypatch.setattr(website, "_sphinx", sphinx)
    monkeypatch.setattr(paper, "printed_pages", lambda *_: iter(()))
    monkeypatch.setattr(paper, "which", lambda name: name)
    if not whole.exists():
        fill(tree)
        shutil.copytree(tree.root, whole)
    shutil.rmtree(tree.root)
    shutil.copytree(whole, tree.root)
    return tree


def fill(tree):
    for slug in ("bad", "good"):
        tree.add(slug)
        for profile in ("smoke", "quick", "real"):
            tree.pretend(slug, profile)
            assert tree.press("accept", slug, "--profile", profile)[0] == 0
    for name, text in TEXTS.items():
        files.write(tree.root / name, text)
    assert tree.press("build")[0] == 0


def inflict(fault, path, sound):
    """Put the file back as it was, and damage it."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    shutil.copy2(sound, path)
    FAULTS[fault](path)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_one_clear_line_and_the_rest_goes_on(book, whole, name, fault):
    for command in COMMANDS:
        inflict(fault, book.root / name, whole / name)
        status, output = book.press(*command)
        assert status in (0, 1, 2), output
        assert "Traceback" not in output
        assert "Error(" not in output
        if "bad" not in name:
            continue  # it belongs to both chapters
        if command == ["list"]:
            assert re.search(r"^good +Good ", output, re.M), output
        if command == ["run"]:
            assert re.search(r"^good +quick +(fresh|ok) ", output, re.M), output


def test_every_file_is_there_to_be_damaged(book):
    assert [name for name in FILES if not (book.root / name).is_file()] == []


def test_a_chapter_whose_card_is_broken_is_told_and_the_others_are_run(book):
    inflict("not text", book.root / "papers/bad/paper.yml", book.root / "papers/good/paper.yml")
    status, output = book.press("run", "--force")
    assert status == 1
    assert re.search(r"^good  quick  ok", output, re.M)
    assert f"bad: {book.root}/papers/bad/paper.yml is not UTF-8 text" in output
    status, output = book.press("run", "bad", "good")
    assert (status, output.count("\n")) == (2, 1), "asked for by name, it stops everything before anything runs"


@pytest.mark.parametrize("name", ["papers/bad/chapter.md", "papers/bad/paper.yml"])
def test_list_tells_which_chapter_it_could_not_list(book, name):
    FAULTS["not text"](book.root / name)
    status, output = book.press("list")
    assert status == 2
    assert f"error: {book.root / name} " in output


def test_a_contents_page_without_parts_is_named(book):
    (book.root / "_toc.yml").write_text("root: index\n")
    status, output = book.press("pdf")
    assert (status, output.count("\n")) == (2, 1)
    assert output.startswith(f"error: {book.root / '_toc.yml'}: expected root, and parts with chapters")


def test_a_browser_that_fails_is_one_line(book, monkeypatch):
    from playwright.sync_api import Error

    def crash(*_):
        raise Error("Target page crashed\nCall log:\n...")

    monkeypatch.setattr(paper, "printed_pages", crash)
    assert book.press("pdf") == (2, "error: chromium could not print the book: Target page crashed\n")


@pytest.mark.parametrize("fault", ["not text", "a folder", "gone", "empty"])
def test_what_others_say_of_themselves_may_be_damaged(book, fault):
    """How far a run is, and who holds a lock, are told where they can be read, and wanted for nothing else."""
    job = jobs.Job("bad", "quick", {}, 1.0)
    FAULTS[fault](book.root / "_build/progress/bad-quick.txt")
    FAULTS[fault](book.root / "_build/locks/bad-quick.holder")
    assert job.progress() == ""
    assert locking.holder("bad-quick") == "another press"


@pytest.mark.parametrize("fault", ["empty", "cut off", "not text", "a list", "null", "a folder", "no access"])
def test_a_damaged_result_of_one_seed_is_as_good_as_none(tmp_path, fault):
    for seed in range(2):
        files.write_json(tmp_path / f"{seed}.json", {"seed": seed, "value": 1.0})
    files.write_json(tmp_path / "all.json", {"value": 1.0})
    FAULTS[fault](tmp_path / "0.json")
    assert list(execute._of_single_seeds(tmp_path)) == ["1.json"]


def test_an_empty_book_is_no_fault(tree):
    status, output = tree.press("list")
    assert (status, "there is no chapter in" in output) == (0, True)
    assert tree.press("check")[0] == 0
    assert tree.press("run")[0] == 2
    (tree.root / "papers").rmdir()
    assert tree.press("list")[0] == 0


TITLE = "Über 联邦 ± [b]"


@pytest.mark.parametrize("command", [["list"], ["show", "demo"], ["check"], ["run"], ["run", "--explain"]])
def test_a_terminal_that_knows_ascii_only_gets_question_marks(tree, command):
    """As a process of its own: the encoding of a terminal is chosen when Python starts."""
    tree.add("demo", work="raise ValueError('±')", title=TITLE)
    tree.monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    tree.monkeypatch.setenv("LC_ALL", "C")
    press = tree.start(*command)
    output, _ = press.communicate(timeout=120)
    assert "UnicodeEncodeError" not in output
    if command[0] == "run":
        assert "ValueError: ?" in output
    else:
        assert press.returncode == (1 if command == ["check"] else 0)


@pytest.mark.parametrize("command", [["list"], ["run"], ["--help"]])
def test_a_reader_of_the_output_who_leaves_early_is_no_news(tree, command):
    """As in `python -m book list | head -1`, when head has ended already."""
    tree.add("demo")
    tree.pretend("demo")
    read, write = os.pipe()
    os.close(read)
    call, env = [sys.executable, "-m", "book", *command], {**os.environ, "FEDBOOK_ROOT": str(tree.root)}
    done = subprocess.run(call, cwd=ROOT, env=env, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""


def test_accept_goes_on_with_the_next_chapter(book):
    book.pretend("good", shift=0.01)
    book.edit("papers/bad/chapter.md", "rate = 0.5", "rate = 0.1")
    before = (book.root / "papers/good/evidence/quick.json").read_bytes()
    status, output = book.press("accept", "bad", "good")
    assert status == 2
    assert "error: bad, quick: changed since it was executed" in output
    assert (book.root / "papers/good/evidence/quick.json").read_bytes() != before


def test_the_press_works_from_any_folder(tree, tmp_path, monkeypatch):
    tree.add("demo")
    tree.pretend("demo")
    monkeypatch.chdir(tmp_path)
    assert "fresh" in tree.press("run", "demo")[1]
    assert tree.press("list")[0] == 0
