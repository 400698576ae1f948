"""What hinders reading: icons over the words of a search, letters of icon fonts in style sheets."""

from __future__ import annotations

import pytest

from book.site import lighter

pytestmark = pytest.mark.site


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


def test_style_sheets_lose_the_letters_of_icon_fonts():
    style = '.a:after{content:"\\f0f3"}.a{--icon:"\uf0f3";--word:"bell"}@media print{.a:before{content:"\\f002"}}'
    kept = lighter.used_rules(style, {"a"})
    assert "\uf0f3" not in kept
    assert (
        kept.replace("\n", "")
        == '.a:after{content:none}.a{--icon:none;--word:"bell"}@media print{.a:before{content:none}}'
    )
