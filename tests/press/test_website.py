"""What is published, when it is built again, and the small commands around it."""

import errno
import os
import threading
import urllib.request
from pathlib import Path

import pytest

from book import chapters, files, paper, website
from book.errors import PressError


@pytest.fixture
def sphinx(tree, monkeypatch):
    """Stands in for Jupyter Book: makes a page, and counts how often."""
    calls = []

    def build(draft):
        calls.append(draft)
        made = chapters.build_folder() / "new-site" / "_build" / "html"
        made.mkdir(parents=True, exist_ok=True)
        (made / "index.html").write_text(f"<p>build {len(calls)}</p>")
        return made

    monkeypatch.setattr(website, "_sphinx", build)
    return calls


def test_a_book_that_is_not_fresh_is_not_published_and_every_reason_is_listed(tree, sphinx):
    tree.add("never")
    tree.add("stale")
    tree.pretend("stale")
    tree.edit(chapters.chapter_path("stale"), "rate = 0.5", "rate = 0.1")
    status, output = tree.press("build")
    assert status == 2
    assert "never: never executed" in output
    assert "stale: changed since it was executed: the chapter's code cells" in output
    assert sphinx == []
    status, output = tree.press("build", "--draft")
    assert status == 0
    assert website.index_page().as_uri() in output


def test_nothing_is_built_when_nothing_changed(tree, sphinx):
    source = tree.add("demo")
    tree.pretend("demo")
    assert "website built" in tree.press("build")[1]
    assert "up to date" in tree.press("build")[1]
    assert len(sphinx) == 1
    tree.edit(source, "The text between", "Other text between")
    assert "website built" in tree.press("build")[1]
    assert website.index_page().read_text() == "<p>build 2</p>"
    tree.press("build", "--draft")
    assert len(sphinx) == 3, "a draft is another website"


def test_a_build_that_fails_keeps_the_last_website(tree, sphinx, monkeypatch):
    source = tree.add("demo")
    tree.pretend("demo")
    tree.press("build")
    tree.edit(source, "The text", "A text")

    def fail(draft):
        raise PressError("the website was not built")

    monkeypatch.setattr(website, "_sphinx", fail)
    assert tree.press("build")[0] == 2
    assert website.index_page().read_text() == "<p>build 1</p>"


def test_the_warnings_of_a_failed_build_are_shown(tree):
    (tree.root / "_config.yml").write_text("title: x\n")
    (tree.root / "_toc.yml").write_text("format: jb-book\nroot: index\nparts:\n- chapters:\n  - file: other\n")
    for page in ("index", "other"):
        (tree.root / f"{page}.md").write_text(f"# A page\n\n{{doc}}`nowhere-{page}`\n")
    status, output = tree.press("build")
    assert status == 2
    assert "the website was not built" in output
    assert "nowhere" in output, "what Sphinx says about the missing page"
    assert str(chapters.build_folder() / "site.log") in output
    assert "Traceback (most recent call last)" not in output.split("full log")[1]


def with_contents(tree, *pages):
    """A table of contents of these pages, each of which is there."""
    for path in (tree.root / f"{page}.md" for page in pages):
        if not path.exists():
            files.write(path, "# A page")
    listed = "".join(f"\n  - file: {page}" for page in pages)
    (tree.root / "_toc.yml").write_text(f"format: jb-book\nroot: {pages[0]}\nparts:\n- chapters:{listed}\n")


@pytest.mark.parametrize("options", [[], ["--draft"]])
def test_a_page_outside_the_table_of_contents_stops_the_build(tree, sphinx, options):
    tree.add("demo")
    tree.pretend("demo")
    tree.add("draft", claims=[])
    files.write(tree.root / "book" / "pages" / "lost.md", "# Nobody finds this")
    with_contents(tree, "index")
    status, output = tree.press("build", *options)
    assert status == 2
    assert "papers/demo/chapter.md is not in _toc.yml: add `- file: papers/demo/chapter` under 'Foundations'" in output
    assert "book/pages/lost.md is not in _toc.yml: add `- file: book/pages/lost` to a part" in output
    assert "draft" not in output, "what is not finished may stay outside"
    assert sphinx == []
    with_contents(tree, "index", "papers/demo/chapter", "book/pages/lost")
    assert tree.press("build", "--draft")[0] == 0


def test_an_entry_of_the_table_of_contents_without_a_page_stops_the_build(tree, sphinx):
    with_contents(tree, "index", "gone")
    (tree.root / "gone.md").unlink()
    status, output = tree.press("build", "--draft")
    assert (status, sphinx) == (2, [])
    assert "_toc.yml: there is no gone.md: write it, or take `- file: gone` out" in output


def test_serve_gives_the_website_and_says_when_there_is_none(tree, sphinx):
    with pytest.raises(PressError, match="build the website first"):
        website.serve(0)
    tree.press("build", "--draft")
    with website.serve(0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/index.html", timeout=10) as page:
            assert page.read() == b"<p>build 1</p>"
        with pytest.raises(PressError, match=f"cannot serve on port {server.server_address[1]}"):
            website.serve(server.server_address[1])
        server.shutdown()


@pytest.fixture
def killed_between_renames(tree, sphinx, monkeypatch):
    """A press that is ended when the old website is out of the way and the new one not yet in its place."""
    source = tree.add("demo")
    tree.pretend("demo")
    tree.press("build")
    tree.edit(source, "The text", "A text")
    real, calls = os.replace, []

    def replace(source, target):
        if Path(target).name == "html":
            raise calls.append(1) or Killed
        real(source, target)

    class Killed(BaseException):
        """Nothing catches it, as nothing catches a SIGKILL."""

    monkeypatch.setattr(website.os, "replace", replace)
    with pytest.raises(Killed):
        website.build()
    monkeypatch.setattr(website.os, "replace", real)
    assert calls
    assert not website.index_page().exists()


@pytest.mark.usefixtures("killed_between_renames")
@pytest.mark.parametrize("command", ["serve", "zip", "pdf", "build", "failing build"])
def test_a_build_killed_between_its_two_renames_leaves_a_website(tree, monkeypatch, command):
    if command == "serve":
        website.serve(0).server_close()
    elif command == "pdf":
        monkeypatch.setattr(paper, "printed_pages", lambda *_: iter(()))
        monkeypatch.setattr(paper, "which", lambda name: name)
        (tree.root / "_toc.yml").write_text("root: index\nparts: []\n")
        assert tree.press("pdf")[0] == 0
    elif command == "failing build":
        tree.add("never")
        assert tree.press("build")[0] == 2
    else:
        status, output = tree.press(command)
        assert status == 0, output
    assert website.index_page().read_text() == f"<p>build {3 if command == 'build' else 1}</p>"


def test_a_website_that_cannot_be_put_in_place_leaves_the_last_one_there(tree, sphinx, monkeypatch):
    source = tree.add("demo")
    tree.pretend("demo")
    tree.press("build")
    tree.edit(source, "The text", "A text")
    real = os.replace

    def replace(source, target):
        if "new-site" in str(source):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(website.os, "replace", replace)
    status, output = tree.press("build")
    assert (status, output.count("\n")) == (2, 1)
    assert "cannot put in place" in output
    assert website.index_page().read_text() == "<p>build 1</p>"


@pytest.mark.parametrize("port", [99999, 65536, -1])
def test_a_port_that_is_none_is_refused(tree, port):
    status, output = tree.press("serve", "--port", str(port))
    assert (status, output) == (
        2,
        f"error: --port {port}: a port is a number from 1 to 65535, or 0 for any that is free\n",
    )


def test_a_port_that_may_not_be_had_is_one_line(tree, sphinx, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    tree.press("build", "--draft")
    monkeypatch.setattr(website.Server, "server_bind", refuse)
    status, output = tree.press("serve", "--port", "80")
    assert (status, output) == (2, "error: cannot serve on port 80: Permission denied; choose another with --port\n")


def test_a_reader_who_leaves_early_is_no_news(tree, sphinx, capfd):
    tree.press("build", "--draft")
    with website.serve(0) as server:
        for fault, told in ((BrokenPipeError, False), (ConnectionResetError, False), (ValueError, True)):
            try:
                raise fault
            except fault:
                server.handle_error(None, ("127.0.0.1", 1))
            assert ("Traceback" in capfd.readouterr().err) is told


def test_list_and_show_say_what_is_there(tree):
    tree.add("demo")
    tree.pretend("demo")
    status, output = tree.press("list")
    assert status == 0
    assert output.splitlines()[1].split() == ["demo", "Demo", "Foundations", "never", "fresh", "never", "-"]
    tree.edit("fedlib/toy.py", "0.01", "0.02")
    output = tree.press("show", "demo")[1]
    assert "quick: changed since it was executed: fedlib.toy" in output
    assert str(chapters.executed_path("demo", "quick").parent) in output
    assert "ours-wins" in output


@pytest.mark.parametrize("link", ["_build", "_build/html", "_build/executed"])
def test_clean_deletes_nothing_behind_a_link(tree, sphinx, tmp_path, link):
    tree.add("demo")
    tree.pretend("demo")
    tree.press("build")
    elsewhere = tmp_path / "elsewhere"
    (tree.root / link).rename(elsewhere)
    (tree.root / link).symlink_to(elsewhere)
    before = sorted(tmp_path.rglob("*"))
    status, output = tree.press("clean", "--all")
    assert (status, output.count("\n")) == (2, 1)
    assert f"{tree.root / link} is a link to {elsewhere}; clean deletes nothing behind a link" in output
    assert sorted(tmp_path.rglob("*")) == before, "not even what stands before the link in the alphabet"


def test_clean_takes_a_link_inside_for_what_it_is(tree, tmp_path):
    files.write(tree.root / "_build" / "html" / "page.html", "")
    kept = tmp_path / "elsewhere"
    files.write(kept / "precious", "")
    (tree.root / "_build" / "html" / "link").symlink_to(kept)
    assert tree.press("clean")[0] == 0
    assert not (tree.root / "_build" / "html").exists()
    assert (kept / "precious").exists()


def test_clean_keeps_what_it_has_not_made_and_says_so(tree, sphinx):
    tree.press("build", "--draft")
    tree.press("zip")
    notes = tree.root / "_build" / "notes"
    files.write(notes / "idea.txt", "")
    status, output = tree.press("clean", "--all")
    assert (status, f"kept: {notes}, which the press has not made" in output) == (0, True)
    assert {path.name for path in (tree.root / "_build").iterdir()} == {"locks", "notes"}
    assert (notes / "idea.txt").exists()


def test_clean_of_nothing_makes_nothing(tree):
    assert tree.press("clean")[0] == 0
    assert not (tree.root / "_build").exists()


def test_clean_keeps_what_was_executed_unless_told_otherwise(tree, sphinx, state):
    tree.add("demo")
    tree.pretend("demo")
    tree.press("build")
    assert tree.press("clean")[0] == 0
    assert not website.index_page().exists()
    assert state("demo") == "fresh"
    assert tree.press("clean", "--all")[0] == 0
    assert state("demo") == "never"
    assert chapters.chapter_path("demo").exists()
