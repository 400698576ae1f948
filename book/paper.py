"""The book on paper: every page of the website printed by Chromium, put together as one PDF with bookmarks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from shutil import which

from book import cards, chapters, contents, files, website
from book.errors import PressError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

# A printed page shows all its images and folded boxes, in light colours; a link to another page of the site, which on
# this machine is a file, leads to the site's public address.
PREPARE = """async () => {
  document.documentElement.dataset.theme = document.documentElement.dataset.mode = 'light';
  document.querySelectorAll('main details, body details').forEach(box => { box.open = true });
  for (const image of document.images) image.loading = 'eager';
  await Promise.all([...document.images].map(image => image.decode().catch(() => 0)));
  const here = document.querySelector('link[rel=canonical]')?.href;
  for (const link of document.querySelectorAll('a[href]')) {
    if (link.protocol !== 'file:' || link.getAttribute('href').startsWith('#')) continue;
    if (here) link.href = new URL(link.getAttribute('href'), here).href; else link.removeAttribute('href');
  }
  return document.querySelector('h1')?.childNodes[0]?.textContent?.trim() || document.title;
}"""
NUMBERED = "html {{ counter-reset: page {before} }}"


def write(target: Path, site: Path | None = None, documents: list[str] | None = None) -> Path:
    """Print ``documents`` (the whole table of contents) into one PDF. Raises PressError without site or Chromium."""
    site = site or website.require().parent
    documents = documents if documents is not None else contents.pages()
    if missing := [name for name in documents if not (site / f"{name}.html").is_file()]:
        raise PressError(f"{site / missing[0]}.html is missing; build the website first: python -m book build")
    browser = next((found for name in BROWSERS if (found := which(name))), None)
    if browser is None:
        raise PressError(
            "Chromium prints the book, and is not installed; on Debian and Ubuntu: apt-get install chromium"
        )
    from pypdf import PdfReader, PdfWriter

    book = PdfWriter()
    book.add_metadata({"/Title": book_title(), "/Creator": "Chromium, pypdf"})
    from playwright.sync_api import Error

    try:
        for title, printed in printed_pages(site, documents, browser):
            book.append(PdfReader(io.BytesIO(printed)), outline_item=title)
    except Error as error:
        raise PressError(f"{browser} could not print the book: {str(error).strip().splitlines()[0]}") from error
    whole = io.BytesIO()
    book.write(whole)
    files.write(target, whole.getvalue())
    return target


def printed_pages(site: Path, documents: list[str], browser: str) -> Iterator[tuple[str, bytes]]:
    """Title and PDF of each page; page numbers run through the book."""
    from playwright.sync_api import sync_playwright
    from pypdf import PdfReader

    before = 0
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=FLAGS)
        tab = chromium.new_page(color_scheme="light", reduced_motion="reduce")
        tab.emulate_media(media="print")
        for name in documents:
            tab.goto((site / f"{name}.html").as_uri(), wait_until="load")
            title: str = tab.evaluate(PREPARE)
            tab.add_style_tag(content=NUMBERED.format(before=before))
            printed = tab.pdf(prefer_css_page_size=True, print_background=True, tagged=True)
            before += len(PdfReader(io.BytesIO(printed)).pages)
            yield title, printed
        chromium.close()


def book_title() -> str:
    """The book's title, as ``_config.yml`` has it; "" where there is none."""
    path = chapters.ROOT / "_config.yml"
    if not path.exists():
        return ""
    config = cards.read_yaml(path)
    if not isinstance(config, dict):
        raise PressError(f"{path}: expected settings such as title, got {type(config).__name__}")
    return str(config.get("title", ""))
