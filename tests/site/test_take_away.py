"""What a reader takes away: the executed notebooks, the commands, and addresses that once were."""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import ZipFile

import nbformat
import pytest
import yaml
from conftest import FORWARDS

from book import chapters
from book.site import plain, press

REPOSITORY = yaml.safe_load((chapters.ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
COMMANDS = ("README.md", "book/pages/index.md", "book/pages/zh.md", "book/pages/reproduce.md")


@pytest.mark.site
@pytest.mark.parametrize("slug", press.slugs())
def test_the_executed_notebook_comes_with_the_site(site, slug):
    path = site / "notebooks" / f"{slug}.ipynb"
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure: it was not executed"
    assert not any(output.get("name") == "stderr" or press.EVIDENCE in output.get("data", {}) for output in outputs)
    assert str(Path.home()) not in text
    assert str(chapters.ROOT) not in text
    assert "site-packages" not in text
    page = site / f"{press.document_of(slug)}.html"
    address = re.search(r'<a [^>]*href="([^"]*)" download>Download the notebook', page.read_text(encoding="utf-8"))[1]
    assert (page.parent / address).resolve() == path.resolve()


@pytest.mark.site
@pytest.mark.parametrize("slug", press.slugs())
def test_the_shipped_notebook_is_the_edition_and_quotes_what_was_measured(site, slug):
    """``tests/press/test_edition.py`` looks at what an edition is."""
    path = site / "notebooks" / f"{slug}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert not any("[not run]" in cell.source for cell in plain.markdown(notebook))
    assert len(notebook.cells) > len(chapters.read(slug).cells), "a cell that sets up, and the method in cells"
    with ZipFile(path.with_suffix(".ipynb.zip")) as packed:
        assert packed.read(path.name) == path.read_bytes()


@pytest.mark.site
def test_a_page_opened_from_a_file_saves_the_zip(site, browser):
    """The notebook itself Chromium shows as text there, as the docstring of notebooks.py says."""
    tab = browser.new_page()
    tab.goto((site / "papers/feddf/chapter.html").as_uri(), wait_until="load")
    with tab.expect_download(timeout=10_000) as saved:
        tab.click(".card-places >> text=as zip")
    assert saved.value.suggested_filename == "feddf.ipynb.zip"
    tab.close()


@pytest.mark.site
def test_the_link_on_the_card_saves_the_notebook(site, browser, address):
    """From a server."""
    tab = browser.new_page()
    tab.goto(address + "papers/feddf/chapter.html", wait_until="load")
    with tab.expect_download(timeout=10_000) as saved:
        tab.click("text=Download the notebook")
    assert saved.value.suggested_filename == "feddf.ipynb"
    tab.close()


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_begin_with_the_clone(name):
    text = (chapters.ROOT / name).read_text(encoding="utf-8")
    first = next(block for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S) if "make book" in block)
    assert first.splitlines()[:2] == [f"git clone {REPOSITORY}", f"cd {REPOSITORY.rsplit('/', 1)[-1]}"]


@pytest.mark.site
def test_every_address_that_once_was_leads_to_a_page(site):
    found = {}
    for path in site.rglob("*.html"):
        if FORWARDS in (text := path.read_text(encoding="utf-8")):
            found[path.relative_to(site).as_posix()] = (path.parent / re.search(r'url=([^"#]+)', text)[1]).resolve()
    assert {"leaderboard.html", "book/pages/leaderboard.html", "index.html"} <= set(found)
    assert all(target.is_file() for target in found.values()), [name for name, at in found.items() if not at.is_file()]


@pytest.mark.site
def test_the_leaderboard_begins_with_its_table_in_tiers(site):
    page = (site / "book/pages/leaderboard/chapter.html").read_text(encoding="utf-8")
    article = re.search(r"<article.*?</article>", page, re.DOTALL)[0]
    start = article.index('<div class="leaderboard">')
    assert start < article.index("<img")
    assert start < article.index("The rules")
    table = article[start : article.index("</table>", start)]
    tiers = [int(number) for number in re.findall(r'<tr class="tier-\d"><td>(\d+)</td>', table)]
    assert tiers[0] == 1
    assert tiers == sorted(tiers)
