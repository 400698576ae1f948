"""Pages for everybody: axe finds nothing serious, the keyboard reaches everything, motion is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ONE_OF_MANY

pytestmark = pytest.mark.site

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")
RUN = """given => axe.run(document, {resultTypes: ['violations'], ...given}).then(found =>
  found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
  .map(v => `${v.id} (${v.impact}): ${v.help}; ` + v.nodes.slice(0, 4).map(n => n.html.slice(0, 160) + ' '
    + (n.any[0]?.message || '')).join(' | ')))"""
COLOURS = ["color-contrast", "link-in-text-block"]  # all that dark changes, and half of axe's work
CHAPTER = "papers/feddf/chapter.html"


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_axe_finds_nothing_serious(site, browser, address, page, mode):
    """In light by every rule, in dark by those on colours, for nothing else differs. The colours of chapters are those
    of one style sheet: they are looked at on every fifth.
    """
    if mode == "dark" and page in ONE_OF_MANY:
        pytest.skip("the colours of every fifth chapter are looked at")
    given = {"runOnly": {"type": "rule", "values": COLOURS}} if mode == "dark" else {}
    if page in ONE_OF_MANY:
        given = {"rules": {rule: {"enabled": False} for rule in COLOURS}}
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=mode, reduced_motion="reduce")
    tab.goto(address + page, wait_until="load")
    tab.evaluate("() => document.querySelectorAll('main details').forEach(box => { box.open = true })")
    tab.evaluate(AXE)
    found = tab.evaluate(RUN, given)
    tab.close()
    assert not found, f"{page}, {mode}: " + "\n".join(found)


# Each press of Tab: what has the focus, whether one sees it, and where it stands.
FOCUS = """() => {
  const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
  const ring = s => (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0) || s.boxShadow !== 'none';
  e.dataset.reached = 'yes';
  return {
    what: e.outerHTML.slice(0, 120), body: e === document.body,
    ring: ring(style) || (e.labels ? [...e.labels].some(l => ring(getComputedStyle(l))) : false),
    seen: box.width > 0 && box.height > 0 && box.bottom > 0 && box.top < innerHeight,
    radio: e.type === 'radio',
  };
}"""
MISSED = """() => [...document.querySelectorAll('a[href], button, summary, input:not([type=hidden])')]
  .filter(e => e.checkVisibility({visibilityProperty: true}) && !e.disabled && e.tabIndex >= 0)
  .filter(e => e.type !== 'radio' && !e.dataset.reached)
  .map(e => e.outerHTML.slice(0, 120))"""


def test_tab_goes_through_a_chapter_and_shows_where_it_is(site, browser, address):
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    tab.goto(address + CHAPTER, wait_until="load")
    tab.keyboard.press("Tab")
    first = tab.evaluate(FOCUS)
    assert "#main-content" in first["what"], f"the first stop is not the link that skips to the text: {first['what']}"
    assert first["seen"], "the skip link has the focus, and nobody sees it"
    hidden, bare = [], []
    for _ in range(600):
        tab.keyboard.press("Tab")
        at = tab.evaluate(FOCUS)
        if at["body"]:
            break
        hidden += [] if at["seen"] or at["radio"] else [at["what"]]
        bare += [] if at["ring"] else [at["what"]]
    missed = tab.evaluate(MISSED)
    tab.close()
    assert not hidden, f"the focus is out of sight on {hidden[:5]}"
    assert not bare, f"nothing shows the focus on {bare[:5]}"
    assert not missed, f"Tab never came to {missed[:5]}"


def test_skip_link_leads_to_the_text(site, browser, address):
    tab = browser.new_page()
    tab.goto(address + CHAPTER, wait_until="load")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")
    inside = tab.evaluate("() => document.querySelector('#main-content').contains(document.activeElement)")
    tab.close()
    assert inside, "after the skip link, Tab goes on outside the text"


def test_folded_boxes_open_by_keyboard(site, browser, address):
    tab = browser.new_page()
    tab.goto(address + CHAPTER, wait_until="load")
    for box in tab.query_selector_all("main details")[:3]:
        before = box.evaluate("box => box.open")
        box.query_selector("summary").focus()
        tab.keyboard.press("Enter")
        assert box.evaluate("box => box.open") is not before
    tab.close()


@pytest.mark.parametrize("name", ["book/pages/claims.html", "papers/feddf/chapter.html"])
def test_what_scrolls_is_reached_by_keyboard(site, browser, address, name):
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto(address + name, wait_until="load")
    stuck = tab.evaluate("""() => [...document.querySelectorAll('article *')].filter(e => {
        const way = getComputedStyle(e).overflowX;
        return (way === 'auto' || way === 'scroll') && e.clientWidth > 1 && e.scrollWidth > e.clientWidth + 1
          && e.checkVisibility() && e.tabIndex < 0 && !e.querySelector('a[href], button, [tabindex="0"]');
      }).map(e => e.outerHTML.slice(0, 120))""")
    tab.close()
    assert not stuck, f"{name}: these scroll, and no key gets there: {stuck[:5]}"


def test_nothing_moves_for_those_who_asked_for_rest(site, browser, address):
    tab = browser.new_page(reduced_motion="reduce")
    tab.goto(address + CHAPTER, wait_until="load")
    moving = tab.evaluate("""() => [...document.querySelectorAll('*')].filter(e => {
        const s = getComputedStyle(e);
        const longest = text => Math.max(...text.split(',').map(parseFloat));
        const moves = Math.max(longest(s.transitionDuration), longest(s.animationDuration)) > 0.01;
        return moves || s.scrollBehavior === 'smooth';
      }).map(e => e.outerHTML.slice(0, 100))""")
    tab.close()
    assert not moving, moving[:5]
