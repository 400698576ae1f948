"""Reading in place: citations, equations, symbols and terms are shown on hover and on focus, also from a file."""

from __future__ import annotations

import re

import pytest

from book.site import symbols

pytestmark = pytest.mark.site
CHAPTER = "papers/fedntd/chapter.html"
KINDS = {
    "symbol": ("a.symbol", r"."),
    "citation": ("a[href^='#id']", r"\(?20\d\d|, 20\d\d|20\d\d\."),
    "equation": ("a.reference[href^='#equation-']", r""),
    "term": ("a:has(> .std-term)", r"\w+ \w+"),
}


@pytest.fixture(scope="module")
def tab(site, browser):
    """A chapter opened from a file, with every request noted."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    tab.asked = []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.goto((site / CHAPTER).as_uri(), wait_until="load")
    yield tab
    context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_shows_its_preview_on_focus_typeset_and_spoken(tab, kind):
    selector, content = KINDS[kind]
    link = tab.locator(f"article {selector}").first
    link.focus()
    preview = tab.locator(".tippy-content")
    preview.wait_for(timeout=5000)
    tab.wait_for_function(
        "() => ![...document.querySelectorAll('.tippy-content .math')].some(e => !e.querySelector('mjx-container'))"
    )
    assert re.search(content, preview.inner_text()), preview.inner_text()
    if kind == "equation":
        assert preview.locator("mjx-container").count()
    assert "\\" not in preview.inner_text(), "raw TeX"
    spoken = link.get_attribute("aria-describedby")
    assert spoken
    assert tab.locator(f"#{spoken}").count() == 1
    assert link.get_attribute("title") is None, "the browser would show a second preview"
    tab.keyboard.press("Escape")
    tab.wait_for_function("() => !document.querySelector('.tippy-content')", timeout=5000)


def test_a_preview_stays_while_the_pointer_is_on_it(tab):
    tab.evaluate("() => document.activeElement.blur()")
    link = tab.locator("article a:has(> .std-term)").first
    link.hover()
    preview = tab.locator(".tippy-box")
    preview.wait_for(timeout=5000)
    preview.hover()
    tab.wait_for_function("() => document.querySelector('.tippy-box:hover')")
    assert preview.is_visible()
    tab.keyboard.press("Escape")


def test_previews_fetch_nothing_from_elsewhere(tab):
    assert tab.asked
    assert all(url.startswith(("file:", "data:")) for url in tab.asked)


def test_formulas_in_previews_find_their_glyphs_on_the_page(site, browser):
    """A formula refers to glyphs that are drawn once per page: also one that comes from elsewhere, in a preview."""
    tab, drawn = browser.new_page(), 0
    for path in sorted(site.glob("papers/*/chapter.html")):
        tab.goto(path.as_uri(), wait_until="load")
        names, missing = tab.evaluate(
            """() => {
              const found = Object.values(selector_to_html).join('').matchAll(/#(glyph-[\\w-]+)/g);
              const names = [...new Set([...found].map(match => match[1]))];
              return [names.length, names.filter(name => !document.getElementById(name))];
            }"""
        )
        assert not missing, f"{path.parent.name}: previews with formulas without {missing[:5]}"
        drawn += names
    tab.close()
    assert drawn


def test_a_preview_shows_what_a_symbol_means_in_this_chapter(site, browser):
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    for slug, name, meaning in (
        ("moon", "mu", "the contrast in MOON"),
        ("moon", "tau", "temperature of the contrast"),
        ("fedntd", "tau", "temperature of a distillation"),
        ("feddf-experiments", "mu", "weight of the proximal term"),
    ):
        tab.goto((site / f"papers/{slug}/chapter.html").as_uri(), wait_until="load")
        tab.locator(f"article a.symbol[href*='#symbol-{name}-']").first.focus()
        preview = tab.locator(".tippy-content")
        preview.wait_for(timeout=5000)
        assert meaning in preview.inner_text(), f"{slug}, {name}: {preview.inner_text()}"
    tab.close()


def test_symbols_lead_to_rows_that_hold_in_their_chapter(site):
    rows = {row.anchor: row for row in symbols.table()}
    for path in sorted(site.glob("papers/*/chapter.html")):
        page = path.read_text(encoding="utf-8")
        anchors = set(re.findall(r'<a class="symbol [^>]*href="[^"]*notation\.html#([^"]+)"', page))
        away = [name for name in anchors if rows[name].chapters and path.parent.name not in rows[name].chapters]
        assert anchors, f"{path.parent.name}: no symbol has a preview"
        assert not away, f"{path.parent.name}: these rows are for other chapters: {away}"


def test_every_citation_term_and_equation_of_a_chapter_has_a_preview(site, browser):
    tab = browser.new_page()
    for path in sorted(site.glob("papers/*/chapter.html")):
        tab.goto(path.as_uri(), wait_until="load")
        bare = tab.eval_on_selector_all(
            "article :is(a.symbol, a[href*='#id']:not(.headerlink), a.reference[href*='#equation-'], "
            "a:has(> .std-term))",
            "links => links.filter(a => !a._tippy && !a.closest('.citation')).map(a => a.outerHTML.slice(0, 160))",
        )
        assert not bare, f"{path.parent.name}: no preview for {bare[:3]}"
    tab.close()


def test_a_chapters_citations_lead_to_its_own_list(site):
    for path in sorted(site.glob("papers/*/chapter.html")):
        text = path.read_text(encoding="utf-8")
        away = re.findall(r'href="([^"#]+#id\d+)"', text.split('id="references"')[0])
        assert not away, f"{path.parent.name} cites into {away[:3]}: give it a bibliography of its own"


@pytest.mark.parametrize("width", [390, 820, 1440])
def test_margin_notes_stand_beside_what_they_correct(site, browser, width):
    """In the margin where there is one; else in the column, never over the text."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto((site / CHAPTER).as_uri(), wait_until="load")
    found = tab.eval_on_selector_all(
        "article aside.margin",
        """notes => notes.map(note => {
          const box = note.getBoundingClientRect();
          const next = note.nextElementSibling.getBoundingClientRect();
          return { right: box.right - document.documentElement.clientWidth, far: Math.abs(box.top - next.top) > 600 };
        })""",
    )
    tab.close()
    assert found, "this chapter corrects its note in the margin"
    for note in found:
        assert note["right"] <= 0, f"a margin note is cut off: {note}"
        assert not note["far"], f"a margin note is far from its line: {note}"
