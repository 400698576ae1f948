"""What hinders reading: boxes for letters that no font has, icons over words, code that is cut off."""

from __future__ import annotations

import pytest

from book.site import lighter

pytestmark = pytest.mark.site

# Icon fonts have their icons in the private areas of Unicode, and no page loads such a font. A pseudo-element of a
# drawing is never shown.
BOXES = r"""() => {
  const secret = /[\ue000-\uf8ff\u{f0000}-\u{10ffff}]/u, found = [];
  for (const e of document.querySelectorAll('body, body *')) {
    if (e.closest('svg')) continue;
    for (const part of ['::before', '::after', '::marker']) {
      const text = getComputedStyle(e, part).content;
      if (secret.test(text)) found.push(part + ' of ' + e.outerHTML.slice(0, 120));
    }
    for (const c of e.childNodes) if (c.nodeType === 3 && secret.test(c.data)) found.push(c.data.trim());
    if (/\bfa-/.test(e.className) && !e.children.length) found.push('no drawing of ' + e.outerHTML.slice(0, 120));
  }
  return found;
}"""


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize(
    ("name", "form"),
    [("search.html?q=FedDF", "main form.bd-search"), ("book/pages/index.html", "#pst-search-dialog form.bd-search")],
)
def test_the_magnifier_stands_beside_the_words_of_a_search(site, browser, address, width, name, form):
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(address + name, wait_until="load")
    tab.keyboard.press("Control+k")  # the dialog; on the page of results, its own field
    form = tab.locator(form).first
    form.locator("input").wait_for(state="visible")
    icon_ends, words_begin = form.evaluate(
        """form => {
          const input = form.querySelector('input');
          const begin = input.getBoundingClientRect().left + parseFloat(getComputedStyle(input).paddingLeft);
          return [form.querySelector('svg').getBoundingClientRect().right, begin];
        }"""
    )
    tab.close()
    assert icon_ends <= words_begin, f"the magnifier ends {icon_ends - words_begin:.0f} px inside the words"


# Every listing and printed output, folded ones opened: what is longer than its box scrolls, is shaded where it goes on,
# and the box itself lies inside the column.
CUT = """() => {
  for (const box of document.querySelectorAll('article details')) box.open = true;
  const text = document.querySelector('article') || document.body; // the page of results has none
  const column = text.getBoundingClientRect(), found = {cut: [], long: 0, narrow: 1e9};
  for (const e of document.querySelectorAll('article pre')) {
    if (!e.clientWidth) continue;
    const style = getComputedStyle(e), what = e.textContent.slice(0, 60);
    for (let a = e; a && a.tagName !== 'ARTICLE'; a = a.parentElement) {
      const box = a.getBoundingClientRect(), way = getComputedStyle(a).overflowX;
      const out = e.getBoundingClientRect().right > box.right + 1;
      if (a !== e && way !== 'visible' && out) found.cut.push('hidden: ' + what);
    }
    if (e.getBoundingClientRect().right > column.right + 1) found.cut.push('sticks out: ' + what);
    const probe = e.appendChild(document.createElement('span'));
    probe.textContent = '0'.repeat(100);
    const sides = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
    const fits = 100 * (e.clientWidth - sides) / probe.getBoundingClientRect().width;
    probe.remove();
    if (e.closest('.cell_input')) found.narrow = Math.min(found.narrow, fits);
    if (e.scrollWidth <= e.clientWidth + 1) continue;
    found.long += 1;
    e.scrollLeft = 1e6;
    if (e.scrollLeft + e.clientWidth < e.scrollWidth - 1) found.cut.push('does not scroll: ' + what);
    if (!/local/.test(style.backgroundAttachment)) found.cut.push('no shaded edge: ' + what);
  }
  return found;
}"""


def test_no_code_is_cut_off_and_no_letter_is_one_of_an_icon_font(site, browser, address, page):
    tab = browser.new_page(viewport={"width": 390, "height": 900}, reduced_motion="reduce")
    tab.goto(address + page, wait_until="load")
    for width in (390, 820, 1440):
        tab.set_viewport_size({"width": width, "height": 900})
        found = tab.evaluate(CUT)
        assert not found["cut"], f"{page} at {width} px: {found['cut'][:4]}"
    boxes = tab.evaluate(BOXES)
    tab.close()
    assert not boxes, f"{page} shows empty boxes: {boxes[:4]}"
    if page == "papers/moon/chapter.html":
        assert found["narrow"] > 98, f"only {found['narrow']:.0f} columns of code fit on a desktop"


def test_style_sheets_lose_the_letters_of_icon_fonts():
    style = '.a:after{content:"\\f0f3"}.a{--icon:"\uf0f3";--word:"bell"}@media print{.a:before{content:"\\f002"}}'
    kept = lighter.used_rules(style, {"a"})
    assert "\uf0f3" not in kept
    assert (
        kept.replace("\n", "")
        == '.a:after{content:none}.a{--icon:none;--word:"bell"}@media print{.a:before{content:none}}'
    )
