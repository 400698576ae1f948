"""The source pages: whole, linked, light, and of the commit that they name."""

from __future__ import annotations

import ast
import html
import re
import subprocess
from pathlib import Path

import pytest
from miniature import Book
from test_pages import addresses

from book import chapters, records
from book.site import source

ROOT = chapters.ROOT
MODULES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "fedlib").rglob("*.py"))
NAMED = re.compile(r"(?<![\w/.])tests/[\w/]+\.py::[\w:]+")
PAGES = [*ROOT.glob("papers/*/chapter.md"), *ROOT.glob("book/pages/**/*.md"), *ROOT.glob("*.md")]


def page_of(site: Path, path: str) -> Path:
    return site / (path.removesuffix(".py").replace("__init__", "index") + ".html")


def source_pages(site: Path) -> list[Path]:
    return [page for folder in ("fedlib", "tests") for page in sorted((site / folder).rglob("*.html"))]


def lines_of(page: Path) -> list[str]:
    """Lines of source as the page shows them, without the empty ones."""
    text = page.read_text(encoding="utf-8").partition("<div class='source-page'>")[2].partition("</article>")[0]
    listed = "\n".join(re.findall(r"<pre>(.*?)</pre>", text, flags=re.S))
    return [line for line in html.unescape(re.sub(r"<[^>]*>", "", listed)).splitlines() if line.strip()]


@pytest.mark.parametrize("text", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_test_that_a_page_names_exists(text):
    for name in NAMED.findall(text.read_text(encoding="utf-8")):
        source.find_test(name)


def test_pages_name_tests_at_all():
    assert sum(len(NAMED.findall(page.read_text(encoding="utf-8"))) for page in PAGES) > 100


@pytest.mark.site
@pytest.mark.parametrize("path", MODULES)
def test_page_shows_the_whole_file_and_an_anchor_for_each_definition(site, path):
    text = (ROOT / path).read_text(encoding="utf-8")
    page = page_of(site, path)
    assert lines_of(page) == [line.rstrip() for line in text.splitlines() if line.strip()]
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            assert node.name in addresses(page).anchors
            inner = node.body if isinstance(node, ast.ClassDef) else []
            methods = {f"{node.name}.{n.name}" for n in inner if isinstance(n, ast.FunctionDef)}
            assert methods <= addresses(page).anchors


@pytest.mark.site
def test_pages_of_tests_show_whole_files(site):
    pages = [page for page in source_pages(site) if page.is_relative_to(site / "tests")]
    assert pages
    for page in pages:
        text = (ROOT / page.relative_to(site)).with_suffix(".py").read_text(encoding="utf-8")
        assert lines_of(page) == [line.rstrip() for line in text.splitlines() if line.strip()], page


@pytest.mark.site
def test_every_test_that_a_page_names_has_its_anchor(site):
    for page in PAGES[:-1]:
        for name in NAMED.findall(page.read_text(encoding="utf-8")):
            path, _, test = name.partition("::")
            assert test.replace("::", ".") in addresses(page_of(site, path)).anchors


@pytest.mark.site
def test_no_link_of_a_source_page_is_dead_and_no_anchor_stands_twice(site):
    pages = source_pages(site)
    assert len(pages) > len(MODULES)
    for page in pages:
        for reference in addresses(page).references:
            url, _, fragment = reference.partition("#")
            if not url.startswith(("http:", "https:")):
                target = (page.parent / url.partition("?")[0]).resolve() if url else page
                assert target.is_file(), f"{page}: {reference}"
                if target.suffix == ".html":
                    assert fragment in addresses(target).anchors, f"{page}: {reference}"
        anchors = re.findall(r'\sid="([^"]*)"', page.read_text(encoding="utf-8"))
        assert len(anchors) == len(set(anchors)), page


@pytest.mark.site
def test_the_index_lists_every_module(site):
    links = addresses(site / "book/pages/library.html").references
    assert {f"../../{page_of(Path(), path)}" for path in MODULES} <= set(links)


@pytest.mark.site
def test_source_pages_are_in_no_table_of_contents(site):
    for page in (site / "book/pages/index.html", site / "book/pages/library.html"):
        sidebar = page.read_text(encoding="utf-8").partition('id="pst-primary-sidebar"')[2].partition("<main")[0]
        assert "library.html" in sidebar or 'href="#"' in sidebar
        assert "fedlib/" not in sidebar


@pytest.mark.site
def test_every_numbered_equation_names_its_code_or_test(site):
    numbered = 0
    for page in (*site.glob("papers/*/chapter.html"), *site.glob("book/pages/*.html")):
        text = page.read_text(encoding="utf-8")
        after = re.findall(r'<span class="eqno">.*?</div>\s*(<p class="equation-links)?', text, flags=re.S)
        numbered += len(after)
        assert all(after), f"{page}: {len(after)} equations, {len([a for a in after if a])} of them linked"
    assert numbered > 50


@pytest.mark.site
def test_source_pages_are_light(site):
    for page in source_pages(site):
        assert page.stat().st_size < 400_000, page
        assert "mathjax" not in page.read_text(encoding="utf-8").lower().partition("<main")[0], page


@pytest.mark.site
def test_line_numbers_are_seen_and_not_copied(site, browser, address):
    tab = browser.new_page()
    tab.goto(address + "fedlib/losses.html#kd", wait_until="load")
    seen = tab.evaluate("""() => {
        const line = document.querySelector('#kd .source-line');
        return [getComputedStyle(line, '::before').content, line.closest('pre').innerText.split('\\n')[0]];
    }""")
    tab.close()
    assert "counter" in seen[0]
    assert seen[1].startswith("def kd(")


@pytest.mark.site
@pytest.mark.parametrize(
    ("query", "anchor"), [("alpha", "symbol-alpha"), ("D_k", "symbol-mathcalD-k"), ("temperature", "term-temperature")]
)
def test_search_finds_a_symbol_by_its_name_and_a_term(site, browser, address, query, anchor):
    tab = browser.new_page()
    tab.goto(address + f"search.html?q={query}")
    tab.wait_for_selector(f"#search-results a[href$='#{anchor}']", timeout=15_000)
    tab.close()


@pytest.mark.site
def test_search_finds_a_function_and_a_chapter_before_its_class(site, browser, address):
    def found(query: str) -> list[str]:
        tab = browser.new_page()
        tab.goto(address + f"search.html?q={query}")
        tab.wait_for_selector("#search-results a[href*='library.html#']", timeout=15_000)  # shown after all pages
        links = tab.eval_on_selector_all("#search-results li a", "links => links.map(a => a.getAttribute('href'))")
        tab.close()
        return links

    assert any(link.endswith("book/pages/library.html#fedlib-federation") for link in found("weighted_mean"))
    links = found("FedNTD")
    chapter = next(n for n, link in enumerate(links) if "papers/fedntd/chapter" in link)
    assert chapter < next(n for n, link in enumerate(links) if "#fedlib-algorithms-fedntd" in link)


def test_source_page_links_to_the_file_at_the_commit(tmp_path, monkeypatch):
    commit = "0123456789" * 4
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(records, "checkout", lambda *paths: (commit, ["tests/unit/test_losses.py"]))
    book = Book(tmp_path)
    book.execute()
    pages, _ = book.build()
    assert f"/blob/{commit}/fedlib/losses.py" in pages["fedlib/losses.html"]
    assert "at commit 0123456" in pages["fedlib/losses.html"]
    assert "/blob/main/tests/unit/test_losses.py" in pages["tests/unit/test_losses.html"]
    assert "not committed" in pages["tests/unit/test_losses.html"]


def test_commit_and_changed_files_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert records.checkout("fedlib") == (None, [])
    names = ["fedlib/a.py", "fedlib/b.py", "fedlib/c.py", "other.py"]
    (tmp_path / "fedlib").mkdir()
    for name in names:
        (tmp_path / name).write_text("x = 1\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for call in (["init", "-q"], ["add", "fedlib/a.py", "fedlib/b.py", "other.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *call], check=True)
    for name in ("fedlib/a.py", "other.py"):
        (tmp_path / name).write_text("x = 2\n")
    head, changed = records.checkout("fedlib")
    assert re.fullmatch("[0-9a-f]{40}", head)
    assert changed == ["fedlib/a.py", "fedlib/c.py"]
