"""What a page weighs, what it looks like at three widths, and how formulas and styles are made lighter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ONE_OF_MANY

from book.site import accessible, lighter, mathematics

LIMIT = 1_500_000  # bytes, uncompressed: the page and all that it loads, images below the fold included


@pytest.fixture(scope="module", autouse=True)
def _engine():
    yield
    mathematics.close()


IMAGES = """() => [...document.querySelectorAll('article img')].map(e => ({
  source: e.getAttribute('src').slice(0, 90), width: e.getAttribute('width'), height: e.getAttribute('height'),
  lazy: e.loading === 'lazy', below: e.getBoundingClientRect().top > 2 * innerHeight}))"""


@pytest.mark.site
def test_page_with_all_it_loads_is_below_the_limit_and_images_wait_below_the_fold(site, browser, address, page):
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    sizes: dict[str, int] = {}
    asked: list = []
    tab.on("requestfinished", lambda request: asked.append(request))
    tab.goto(address + page, wait_until="load")
    images = tab.evaluate(IMAGES)
    tab.evaluate("() => { for (const image of document.images) image.loading = 'eager' }")
    tab.wait_for_load_state("networkidle")
    for request in asked:
        if request.url.startswith("http"):
            sizes[request.url.removeprefix(address)] = request.sizes()["responseBodySize"]
    fonts = [name for name in sizes if name.split("?")[0].endswith((".woff", ".woff2", ".ttf"))]
    tab.close()
    worst = sorted(sizes.items(), key=lambda item: -item[1])[:5]
    assert sum(sizes.values()) > 10_000, "the test counted nothing"
    assert sum(sizes.values()) <= LIMIT, f"{page} weighs {sum(sizes.values()):,} bytes: {worst}"
    assert not fonts, f"{page} loads fonts: {fonts}"
    for image in images:
        vector = image["source"].startswith("data:image/svg")
        assert vector or (image["width"] and image["height"]), f"{page}: no size on {image['source']}"
        assert image["lazy"] or not image["below"] or vector, f"{page}: {image['source']} is loaded at once"


WIDTHS = (390, 820, 1440)
# The page is no wider than the window; parts that stand beside each other do not cover each other; an equation or a
# listing that is too long scrolls inside itself.
LAYOUT = """() => {
  const width = document.documentElement.clientWidth, found = [];
  const wide = document.documentElement.scrollWidth;
  if (wide > width) found.push(`the page is ${wide} px wide`);
  const article = document.querySelector('article.bd-article');
  if (!article) return found;
  const parts = [...article.querySelectorAll(':scope > section > *, :scope > section > section > *')]
    .filter(e => e.checkVisibility() && e.tagName !== 'SPAN')
    .filter(e => getComputedStyle(e).float === 'none' && getComputedStyle(e).position === 'static');
  for (let i = 1; i < parts.length; i++) {
    const a = parts[i - 1], b = parts[i];
    if (a.parentElement !== b.parentElement) continue;
    const above = a.getBoundingClientRect(), over = above.bottom - b.getBoundingClientRect().top;
    if (over > 1 && above.height) found.push(`${over} px of overlap at ${b.outerHTML.slice(0, 80)}`);
  }
  for (const e of article.querySelectorAll('div.math > mjx-container, div.highlight pre')) {
    const box = e.getBoundingClientRect(), way = getComputedStyle(e).overflowX;
    if (!box.width) continue;
    if (box.right > width + 1) found.push(`sticks out: ${e.outerHTML.slice(0, 80)}`);
    const cut = e.scrollWidth > e.clientWidth + 1 && !['auto', 'scroll'].includes(way);
    if (cut) found.push(`cut: ${e.outerHTML.slice(0, 80)}`);
  }
  return found;
}"""


@pytest.mark.site
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_page_fits_every_width(site, browser, address, page, mode):
    if mode == "dark" and page in ONE_OF_MANY:
        pytest.skip("every fifth chapter is looked at in dark")
    tab = browser.new_page(viewport={"width": WIDTHS[0], "height": 900}, color_scheme=mode, reduced_motion="reduce")
    tab.goto(address + page, wait_until="load")
    for width in WIDTHS:
        tab.set_viewport_size({"width": width, "height": 900})
        found = tab.evaluate(LAYOUT)
        assert not found, f"{page} at {width} px, {mode}: {found[:5]}"
    tab.close()


@pytest.mark.site
def test_a_long_equation_scrolls_inside_itself_on_a_phone(site, browser, address):
    """The test above would pass if no equation were too long."""
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto(address + "papers/feddf/chapter.html", wait_until="load")
    long = tab.evaluate("""() => [...document.querySelectorAll('div.math > mjx-container')]
        .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => [getComputedStyle(e).overflowX, e.tabIndex])""")
    tab.close()
    assert long
    assert all(way == "auto" and index == 0 for way, index in long)


def test_a_formula_is_drawn_said_and_shares_its_glyphs():
    made = mathematics.typeset(r"\alpha + \alpha")
    assert made.count('href="#glyph-') == 3
    assert "<mi>&#x3B1;</mi>" in made or "<mi>α</mi>" in made
    assert "<path" not in made
    names = set(re.findall(r'#glyph-([\w-]+)"', made))
    assert mathematics.outlines(names).count("<path") == 2


def test_tex_that_cannot_be_read_is_an_error():
    with pytest.raises(mathematics.TeXError, match="Undefined control sequence"):
        mathematics.typeset(r"\frobnicate{x}")


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("a = b", "a = b"),
        (r"a \\ b", r"\begin{split}a \\ b\end{split}"),
        ("a\n\nb", r"\begin{align}\begin{aligned}a\\b\end{aligned}\end{align}"),
    ],
)
def test_lines_of_an_equation_are_kept(text, tex):
    assert mathematics.display_tex(text, nowrap=False) == tex
    assert mathematics.display_tex(text, nowrap=True) == text


def test_only_rules_that_no_page_needs_are_left_out():
    style = ".used,.gone{color:red}.gone{color:blue}.used:not(.gone){a:b}@media print{.gone{c:d}.used{e:f}}:root{--x:1}"
    kept = lighter.used_rules(style + "@font-face{src:url(x)}", {"used"})
    assert kept.replace("\n", "") == ".used{color:red}.used:not(.gone){a:b}@media print{.used{e:f}}:root{--x:1}"


def test_icons_glyphs_and_images_come_into_the_page(tmp_path: Path):
    script = tmp_path / "fontawesome.js"
    script.write_text('{moon:[384,512,[1],"f186","M1 2"]},{moon:[384,512,[1,"night"],"f186","M3 4"]}')
    text = '<body><i class="fa-solid fa-night"></i><img src="a.png" style="width: 10px; height: 20px;"/><img src="b"/>'
    made = lighter.lighten(text, tmp_path / "page.html", lighter.outlines_of_icons(script))
    assert 'd="M3 4"' in made
    assert "<i " not in made
    assert 'width="10" height="20" src="a.png" />' in made
    assert made.count('loading="lazy"') == 2


def test_faults_of_the_theme_are_mended():
    button = '<button class="btn search-button-field" aria-label="Search">Search</button>'
    assert "aria-label" not in accessible.mend(button)


def test_a_figure_is_stored_smaller_and_looks_the_same(tmp_path: Path):
    from PIL import Image, ImageChops, ImageDraw

    drawn = Image.new("RGBA", (400, 300), "white")
    pen = ImageDraw.Draw(drawn)
    for i in range(30):
        pen.line((0, i * 9, 400, 300 - i * 7), fill=(i * 8, 80, 160), width=3)
    path = tmp_path / "figure.png"
    drawn.save(path, compress_level=1)
    before = path.stat().st_size
    lighter.with_palette(path)
    assert path.stat().st_size < before
    difference = ImageChops.difference(Image.open(path).convert("RGB"), drawn.convert("RGB"))
    assert max(high for _, high in difference.getextrema()) <= 8


def test_a_film_still_moves_on_the_website(tmp_path: Path):
    """Storing with a palette would leave its first moment alone."""
    import torch
    from PIL import Image

    from fedlib.plots import moving

    path = tmp_path / "film.png"
    path.write_bytes(content := moving.film(torch.rand(3, 2, 3, 8, 8)))
    lighter.with_palette(path)
    assert path.read_bytes() == content
    with Image.open(path) as film:
        assert film.n_frames == 3
