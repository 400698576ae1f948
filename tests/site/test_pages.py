"""Every page of the built website in a real browser: complete without a network, fit for a phone, no loose ends."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import looks
import pytest
from conftest import ONE_OF_MANY, WIDTHS

pytestmark = pytest.mark.site

LIMIT = 1_500_000  # bytes, uncompressed: a page and all that it loads, images below the fold included


def test_page_loads_without_an_error(site, visit, page):
    found = visit(page)
    assert not found.errors, f"the console of {page} says: {found.errors}"
    assert not found.failed, f"{page} asks for what is not there: {found.failed}"


def test_page_fetches_nothing_from_elsewhere(site, visit, address, page):
    away = [url for url in visit(page).requests if not url.startswith((address, "data:", "blob:"))]
    assert not away, f"{page} leaves the site for {away}"


def test_every_equation_is_rendered(site, visit, page):
    seen = visit(page).seen
    assert not seen["unrendered"], f"{page}: not typeset: {seen['unrendered']}"
    assert not seen["broken"], f"{page}: MathJax could not read: {seen['broken']}"
    assert not seen["raw"], f"{page}: TeX stands in the text as {set(seen['raw'])}"


def test_every_image_is_shown_and_described(site, visit, page):
    for image in visit(page).seen["images"]:
        assert image["width"] > 0, f"{page}: {image['source']} is not shown"
        if image["article"]:
            alt = (image["alt"] or "").strip()
            assert alt, f"{page}: {image['source']} has no alternative text"
            assert not re.search(r"\.(png|jpe?g|svg|gif|webp)$|^_?(images|build)/", alt), (
                f"{page}: alt is a path: {alt}"
            )


def test_nothing_overflows_on_a_phone(site, visit, page):
    phone = visit(page).phone
    assert phone["page"] <= 0, f"{page} is {phone['page']} px wider than a phone: {phone['parts'][:5]}"
    assert not phone["parts"], f"{page}: cut off at 390 px: {phone['parts'][:5]}"


def test_page_fits_every_width(site, visit, page):
    for width, wrong in visit(page).layout.items():
        assert not wrong, f"{page} at {width} px: {wrong[:5]}"


def test_page_fits_every_width_in_dark(site, browser, address, page):
    if page in ONE_OF_MANY:
        pytest.skip("every fifth chapter is looked at in dark")
    tab = browser.new_page(viewport={"width": WIDTHS[0], "height": 900}, color_scheme="dark", reduced_motion="reduce")
    tab.goto(address + page, wait_until="load")
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        wrong = tab.evaluate(looks.LAYOUT)
        assert not wrong, f"{page} at {width} px: {wrong[:5]}"
    tab.close()


def test_no_code_is_cut_off_and_no_letter_is_one_of_an_icon_font(site, visit, page):
    for width, found in visit(page).code.items():
        assert not found["cut"], f"{page} at {width} px: {found['cut'][:4]}"
    boxes = visit(page).boxes
    assert not boxes, f"{page} shows empty boxes: {boxes[:4]}"
    if page == "papers/moon/chapter.html":
        narrow = visit(page).code[1440]["narrow"]
        assert narrow > 98, f"only {narrow:.0f} columns of code fit on a desktop"


def test_page_with_all_it_loads_is_below_the_limit_and_images_wait_below_the_fold(site, visit, page):
    sizes = visit(page).sizes
    fonts = [name for name in sizes if name.split("?")[0].endswith((".woff", ".woff2", ".ttf"))]
    worst = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert sum(sizes.values()) > 10_000, "the test counted nothing"
    assert sum(sizes.values()) <= LIMIT, f"{page} weighs {sum(sizes.values()):,} bytes: {worst}"
    assert not fonts, f"{page} loads fonts: {fonts}"
    for image in visit(page).images:
        vector = image["source"].startswith("data:image/svg")
        assert vector or (image["width"] and image["height"]), f"{page}: no size on {image['source']}"
        assert image["lazy"] or not image["below"] or vector, f"{page}: {image['source']} is loaded at once"


def test_mathematics_is_used_at_all(site, visit):
    """The tests above would pass on pages without a single equation."""
    assert visit("book/pages/notation.html").seen["equations"] > 20


def test_search_finds_feddf(site, browser, address):
    tab = browser.new_page()
    tab.goto(address + "search.html?q=FedDF")
    tab.wait_for_selector("#search-results li a", timeout=15_000)
    found = tab.eval_on_selector_all("#search-results li a", "links => links.map(a => a.getAttribute('href'))")
    tab.close()
    assert any("papers/feddf/chapter" in link for link in found), f"search found only {found}"


@pytest.mark.parametrize("name", ["book/pages/notation.html", "papers/feddf/chapter.html"])
def test_page_opens_from_a_file(site, browser, name):
    errors: list[str] = []
    tab = browser.new_page()
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    tab.on("requestfailed", lambda r: errors.append(f"not loaded: {r.url}"))
    tab.goto((site / name).as_uri(), wait_until="load")
    equations, rendered = tab.evaluate(
        "() => [document.querySelectorAll('.math').length, document.querySelectorAll('.math mjx-container').length]"
    )
    styled = tab.evaluate("() => getComputedStyle(document.documentElement).getPropertyValue('--book-line').trim()")
    tab.close()
    assert equations > 0
    assert rendered == equations
    assert styled, "the style sheet was not loaded"
    assert not errors, errors


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_page_follows_the_readers_colours(site, browser, address, mode):
    tab = browser.new_page(color_scheme=mode)
    tab.goto(address + "book/pages/index.html", wait_until="load")
    theme = tab.evaluate("() => document.documentElement.dataset.theme")
    tab.close()
    assert theme == mode


def test_chinese_boxes_say_their_language(site):
    box = re.compile(r"<details[^>]*>(?=\s*<summary[^>]*>\s*<span[^>]*>中文)")
    boxes = [found for path in site.rglob("chapter.html") for found in box.findall(path.read_text(encoding="utf-8"))]
    assert boxes, "no chapter has a folded Chinese paragraph"
    assert all('lang="zh"' in box for box in boxes)


class Addresses(HTMLParser):
    """Links, other references and anchors of one page."""

    def __init__(self, path: Path):
        super().__init__()
        self.references: list[str] = []
        self.anchors = {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif (name == "href" and tag in ("a", "link")) or (name == "src" and tag in ("img", "script", "iframe")):
                self.references.append(value or "")
            elif name == "content" and value and (match := re.match(r"\d+;\s*url=(.+)", value)):
                self.references.append(match.group(1))


@cache
def addresses(path: Path) -> Addresses:
    return Addresses(path)


def test_no_internal_link_is_dead(site, page):
    here = site / page
    dead = []
    for reference in addresses(here).references:
        url, fragment = urldefrag(reference)
        if urlparse(url).scheme or url.startswith("//"):
            continue
        target = here if not url else (here.parent / unquote(urlparse(url).path)).resolve()
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            dead.append(reference)
        elif fragment and target.suffix == ".html" and unquote(fragment) not in addresses(target).anchors:
            dead.append(f"{reference} (no such anchor)")
    assert not dead, f"{page} links to what is not there: {dead}"


def test_no_script_or_style_comes_from_a_network(site, page):
    """What a page would fetch only when a button is pressed counts, too."""
    text = (site / page).read_text(encoding="utf-8")
    loader = r'<(?:script|link rel="stylesheet"|img|iframe)[^>]*(?:src|href)="(?:https?:)?//[^"]*"'
    loads = re.findall(loader, text)
    assert not loads, f"{page} would load {loads}"
    assert not re.search(r"unpkg\.com|cdn\.jsdelivr|cdnjs|googleapis", text), f"{page} names a CDN"
