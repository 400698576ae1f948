"""Away from the server: one archive that opens from a file without a network, and the book on paper."""

from __future__ import annotations

import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from miniature import CHAPTER, Book

from book import archive, chapters, paper
from book.errors import PressError


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.delenv("FEDBOOK_DRAFT", raising=False)
    return Book(tmp_path)


@pytest.mark.site
def test_archive_opens_from_a_file_without_a_network(site, browser, tmp_path):
    packed = archive.write(tmp_path / "book.zip", site)
    with zipfile.ZipFile(packed) as content:
        content.extractall(tmp_path)
    root = tmp_path / archive.FOLDER
    faults: list[str] = []
    context = browser.new_context(offline=True)
    tab = context.new_page()
    tab.on("pageerror", lambda e: faults.append(str(e)))
    tab.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    tab.on("request", lambda r: faults.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    tab.on("requestfailed", lambda r: faults.append(f"not loaded: {r.url}"))

    tab.goto((root / "index.html").as_uri())
    tab.wait_for_url("**/book/pages/index.html")
    tab.click("article a[href*='papers/feddf/chapter.html'], nav a[href*='papers/feddf/chapter.html']")
    tab.wait_for_load_state("load")
    assert tab.evaluate("() => document.querySelectorAll('.math svg use').length") > 100
    assert tab.evaluate("() => document.querySelector('.math svg use').getBoundingClientRect().width") > 1
    figure = (
        "() => { const e = document.querySelector('article .cell_output img'); e.loading = 'eager'; return e.decode()"
    )
    assert tab.evaluate(f"{figure}.then(() => e.naturalWidth) }}") > 100
    assert not faults, faults

    tab.keyboard.press("Control+k")  # the dialog, then the page of results
    tab.keyboard.type("distillation")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/search.html*")
    tab.wait_for_selector("#search-results li a", timeout=15_000)
    tab.wait_for_function("() => /finished|found/.test(document.querySelector('.search-summary')?.textContent || '')")
    links = tab.eval_on_selector_all("#search-results li a", "links => links.map(a => a.href)")
    context.close()
    assert any("papers/feddf/chapter.html" in link for link in links), links
    assert not faults, f"from a file the search complains: {faults}"


def test_archive_is_the_same_for_the_same_site(tmp_path):
    site = tmp_path / "html"
    site.mkdir()
    (site / "index.html").write_text("hello")
    (site / "style.css.map").write_text("{}")
    first = archive.write(tmp_path / "a.zip", site).read_bytes()
    (site / "index.html").touch()
    assert archive.write(tmp_path / "b.zip", site).read_bytes() == first
    with zipfile.ZipFile(tmp_path / "a.zip") as content:
        assert content.namelist() == [f"{archive.FOLDER}/index.html"]


def test_no_site_no_archive_and_no_paper(tmp_path):
    with pytest.raises(PressError, match="build the website first"):
        archive.write(tmp_path / "book.zip", tmp_path)
    with pytest.raises(PressError, match=r"gone\.html is missing"):
        paper.write(tmp_path / "book.pdf", tmp_path, ["gone"])


def test_paper_needs_chromium(tmp_path, monkeypatch):
    (tmp_path / "page.html").write_text("hello")
    monkeypatch.setattr(paper, "which", lambda name: None)
    with pytest.raises(PressError, match="Chromium prints the book"):
        paper.write(tmp_path / "book.pdf", tmp_path, ["page"])


@pytest.mark.site
def test_miniature_becomes_one_pdf(book):
    if not any(shutil.which(name) for name in paper.BROWSERS):
        pytest.skip("Chromium is not installed")
    from pypdf import PdfReader

    long = "\n".join(f"Paragraph {i}.\n" for i in range(120))
    book.write("papers/mini/chapter.md", CHAPTER + f"\n## Long\n\n{long}\n")
    book.write("book/static/reading.css", (Path(__file__).parents[2] / "book/static/reading.css").read_text())
    book.execute()
    book.build()
    site = book.root / "_build" / "html"
    for page in site.rglob("*.html"):  # the style sheet of the true site, which the miniature's theme does not know
        style = (book.root / "book/static/reading.css").as_uri()
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace("</head>", f'<link rel="stylesheet" href="{style}"></head>'), encoding="utf-8")
    with ThreadPoolExecutor() as apart:  # Playwright of the other tests is at work in this thread
        made = PdfReader(
            apart.submit(paper.write, book.root / "book.pdf", site, ["index", "papers/mini/chapter"]).result()
        )
    assert [mark.title for mark in made.outline] == ["Home", "A miniature"]
    text = [page.extract_text() for page in made.pages]
    assert len(text) >= 4
    assert "Paragraph 119." in text[-1]
    assert "两句话" in "".join(text).replace(" ", "").replace("\n", ""), "a folded box was not opened"
    width, height = made.pages[0].mediabox[2:]
    assert (round(width), round(height)) == (595, 842), "the paper is not A4"
    for number, words in enumerate(text, start=1):
        assert str(number) in words.split(), f"page {number} does not say its number"
    links = [
        str(note.get_object().get("/A", {}).get("/URI", "")) for page in made.pages for note in page.get("/Annots", [])
    ]
    assert not [link for link in links if link.startswith("file:")], "a link leads to a file of this machine"


@pytest.mark.site
def test_chapter_on_paper_is_text_alone(site, browser, address):
    tab = browser.new_page(viewport={"width": 680, "height": 960}, color_scheme="dark")
    tab.goto(address + "papers/feddf/chapter.html", wait_until="load")
    tab.emulate_media(media="print")
    found = tab.evaluate("""() => {
      dispatchEvent(new Event('beforeprint'));
      const count = (selector, wanted) => [...document.querySelectorAll(selector)].filter(wanted).length;
      const shown = selector => count(selector, e => e.checkVisibility());
      return {
        around: shown('.bd-sidebar-primary, .bd-sidebar-secondary, .bd-header-article, .prev-next-area, .copybtn'),
        title: shown('article h1'), closed: document.querySelectorAll('main details:not([open])').length,
        cut: count('div.highlight pre', e => e.scrollWidth > e.clientWidth + 1),
        split: count('article img', e => getComputedStyle(e).breakInside !== 'avoid'),
        paper: getComputedStyle(document.body).backgroundColor,
      };
    }""")
    tab.close()
    expected = {"around": 0, "title": 1, "closed": 0, "cut": 0, "split": 0, "paper": "rgb(255, 255, 255)"}
    assert found == expected
