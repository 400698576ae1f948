"""A line of code that lint allows is shown whole."""

import pytest

from book import chapters
from book.lint import COLUMN

FILL = """length => {
  const code = [...document.querySelectorAll('article div.cell_input pre')].find(e => e.checkVisibility());
  code.textContent = 'x'.repeat(length);
  return code.scrollWidth - code.clientWidth;
}"""


@pytest.mark.parametrize("width", [1280, 1440])
def test_the_longest_line_that_lint_allows_needs_no_scrolling(site, address, browser, width):
    pages = (chapters.chapter_path(slug).relative_to(chapters.ROOT).with_suffix(".html") for slug in chapters.slugs())
    page = next(page for page in pages if (site / page).exists())
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(f"{address}{page}", wait_until="load")
    assert tab.evaluate(FILL, COLUMN) == 0
    assert tab.evaluate(FILL, 2 * COLUMN) > 0, "the cell is one that scrolls"
    tab.close()
