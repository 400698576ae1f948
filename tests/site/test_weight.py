"""How formulas, styles and figures are made lighter, and pages complete in one file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from book.site import accessible, lighter, mathematics


@pytest.fixture(scope="module", autouse=True)
def _engine():
    yield
    mathematics.close()


@pytest.mark.site
def test_a_long_equation_scrolls_inside_itself_on_a_phone(site, browser, address):
    """What test_pages.py asks of every page would hold if no equation were too long."""
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
