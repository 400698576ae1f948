"""A line of code that lint allows is one line on a desktop; what is longer is broken, never cut off."""

import pytest

from book import chapters
from book.lint import COLUMN

FILL = """length => {
  const code = [...document.querySelectorAll('article div.cell_input pre')].find(e => e.checkVisibility());
  code.textContent = 'x'.repeat(length);
  const range = document.createRange();
  range.selectNodeContents(code);
  return [range.getClientRects().length, code.scrollWidth - code.clientWidth];
}"""


@pytest.mark.parametrize("width", [390, 1280, 1440])
def test_the_longest_line_that_lint_allows_is_one_line_on_a_desktop_and_whole_everywhere(site, address, browser, width):
    pages = (chapters.chapter_path(slug).relative_to(chapters.ROOT).with_suffix(".html") for slug in chapters.slugs())
    page = next(page for page in pages if (site / page).exists())
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(f"{address}{page}", wait_until="load")
    lines, beyond = tab.evaluate(FILL, COLUMN)
    assert beyond == 0
    if width == 1440:
        assert lines == 1
    lines, beyond = tab.evaluate(FILL, 2 * COLUMN)
    assert lines > 1
    assert beyond == 0
    tab.close()
