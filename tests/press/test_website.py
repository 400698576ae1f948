"""What is published, when it is built again, and the small commands around it."""

import threading
import urllib.request

import pytest

from book import chapters, website
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
    (tree.root / "_toc.yml").write_text("format: jb-book\nroot: nowhere\n")
    status, output = tree.press("build")
    assert status == 2
    assert "the website was not built" in output
    assert "nowhere" in output, "what Sphinx says about the missing page"
    assert str(chapters.build_folder() / "site.log") in output
    assert "Traceback (most recent call last)" not in output.split("full log")[1]


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
