"""Equation, code, test: who links to whom on a throw-away book, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from miniature import PAGE, Book, text_of

from book import chapters

LISTING = """```{code-of} fedlib.losses.squared
:test: tests/unit/test_losses.py::test_squared
```"""

METHOD = """## Method

```{math}
:label: mini-first
d = a - b
```

```{math}
:label: mini-second
d^2
```

LISTING

## Elsewhere
"""


def listing(*options: str) -> str:
    return LISTING.replace("squared\n", "\n".join(["squared", *options]) + "\n", 1)


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.delenv("FEDBOOK_DRAFT", raising=False)
    return Book(tmp_path)


def written(book: Book, method: str) -> tuple[dict[str, str], str]:
    """The book with this text in place of the chapter's only listing, built."""
    book.edit("papers/mini/chapter.md", LISTING, method)
    book.execute()
    return book.build()


def lines(page: str, kind: str) -> list[str]:
    """The quiet lines of one kind, as HTML."""
    return re.findall(rf'<p class="[^"]*\b{kind}\b[^"]*">(.*?)</p>', page, flags=re.S)


def added(*said: str) -> str:
    return METHOD.replace("LISTING", "\n\n".join([listing(":equation: mini-first mini-second"), *said]))


def test_a_listing_belongs_to_the_nearest_equation_before_it(book):
    first = "```{equation} mini-first\n:test: tests/unit/test_losses.py::test_squared\n```"
    pages, warnings = written(book, METHOD.replace("LISTING", f"{first}\n\n{LISTING}"))
    assert warnings == ""
    above, below = lines(pages[PAGE], "equation-links")
    assert "code:" not in above
    assert 'href="#code-fedlib-losses-squared"' in below
    assert 'href="../../tests/unit/test_losses.html#test_squared"' in below
    origin = next(line for line in lines(pages[PAGE], "origin") if "fedlib/losses" in line)
    assert text_of(origin).startswith("implements (2) ·")
    assert 'href="#equation-mini-second"' in origin
    assert 'id="code-fedlib-losses-squared"' in pages[PAGE]


def test_source_and_test_link_back_to_equation_and_listing(book):
    pages, _ = written(book, METHOD.replace("LISTING", listing(":equation: mini-first, mini-second")))
    for page, anchor in (("fedlib/losses.html", "squared"), ("tests/unit/test_losses.html", "test_squared")):
        box = pages[page].partition(f'id="{anchor}"')[2].partition("<pre>")[0]
        home = "../" * page.count("/") + PAGE
        targets = ("code-fedlib-losses-squared", "equation-mini-first", "equation-mini-second")
        assert [f'href="{home}#{target}"' in box for target in targets] == [True] * 3
        assert "A miniature (1) (2)" in text_of(box)


def test_an_equation_of_another_section_is_not_meant(book):
    moved = METHOD.replace("LISTING", "").replace(
        "d^2\n```", "d^2\n```\n\n" + facts("mini-first") + facts("mini-second")
    )
    pages, warnings = written(book, f"{moved}\n{LISTING}")
    assert warnings == ""
    assert "implements" not in text_of(pages[PAGE])


def facts(label: str) -> str:
    return f"```{{equation}} {label}\n:test: tests/unit/test_losses.py::test_squared\n```\n\n"


def test_code_that_is_no_equation_says_so(book):
    text = METHOD.replace("LISTING", facts("mini-first") + facts("mini-second") + listing(":equation: none"))
    pages, warnings = written(book, text)
    assert warnings == ""
    assert "implements" not in text_of(pages[PAGE])


def test_a_cell_that_is_an_equation_links_both_ways(book):
    book.edit("papers/mini/chapter.md", "1 + 1  # two", "1 + 1  # two\n\ndef twice(x):\n    return 2 * x")
    pages, warnings = written(book, added("```{equation} mini-first\n:cell: twice\n```"))
    assert warnings == ""
    assert 'id="cell-twice"' in pages[PAGE]
    assert 'href="#cell-twice"' in lines(pages[PAGE], "equation-links")[0]
    assert "twice implements (1)" in text_of(lines(pages[PAGE], "cell-origin")[0])


def test_code_shown_elsewhere_can_be_named(book):
    pages, warnings = written(book, added("```{equation} mini-first\n:code: fedlib.losses.squared\n```"))
    assert warnings == ""
    assert 'href="../../fedlib/losses.html#squared"' in lines(pages[PAGE], "equation-links")[0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (METHOD.replace("LISTING", LISTING), "equation mini-first has neither a test nor a cell"),
        (added("```{equation} mini-third\n:code: fedlib.losses.squared\n```"), "Did you mean 'mini-"),
        (added("```{equation} mini-first\n:cell: thrice\n```"), "no cell of this page defines 'thrice'"),
        (added("```{equation} mini-first\n:test: tests/unit/test_losses.py::test_cubed\n```"), "has no 'test_cubed'"),
        (added("```{equation} mini-first\n:code: fedlib.losses.sqared\n```"), "Did you mean 'squared'?"),
        (added("```{equation} mini-first\n```"), "say what implements or checks it"),
        (METHOD.replace("LISTING", listing(":equation: mini-thrid")), "has the label 'mini-thrid'"),
    ],
)
def test_what_does_not_exist_is_a_complaint_on_every_build(book, text, complaint):
    book.edit("papers/mini/chapter.md", LISTING, text)
    book.execute()
    for _ in range(2):
        assert complaint in book.build()[1]


@pytest.mark.parametrize(
    ("name", "href"),
    [
        ("fedlib.losses", "fedlib/losses.html"),
        ("fedlib.losses.squared()", "fedlib/losses.html#squared"),
        ("tests/unit/test_losses.py", "tests/unit/test_losses.html"),
        ("tests/unit/test_losses.py::test_squared", "tests/unit/test_losses.html#test_squared"),
        ("test_other", "tests/unit/test_more.html#test_other"),
        ("test_oth...", "tests/unit/test_more.html#test_other"),
        ("test_squared", "tests/unit/test_losses.html#test_squared"),  # that of the file which the listing names
    ],
)
def test_names_in_the_text_become_links(book, name, href):
    book.write("tests/unit/test_more.py", "def test_other():\n    pass\n\n\ndef test_squared():\n    pass\n")
    pages, warnings = written(book, f"{LISTING}\n\nSee `{name}`.")
    assert warnings == ""
    link = re.search(
        rf'<a class="reference internal" href="([^"]*)"><code[^>]*><span class="pre">{re.escape(name)}<', pages[PAGE]
    )
    assert link
    assert link.group(1) == f"../../{href}"


def test_a_name_of_several_tests_stays_as_it_is(book):
    for folder in ("unit", "press"):
        book.write(f"tests/{folder}/test_more.py", "def test_other():\n    pass\n")
    pages, warnings = written(book, f"{LISTING}\n\nSee `test_other`.")
    assert warnings == ""
    assert not re.search(r'<a [^>]*><code[^>]*><span class="pre">test_other', pages[PAGE])


@pytest.mark.parametrize(
    "name", ["tests/unit/test_losses.py::test_gone", "tests/unit/test_gone.py", "test_gone", "fedlib.losses.gone"]
)
def test_a_name_in_the_text_that_does_not_exist_is_a_complaint_on_every_build(book, name):
    book.edit("papers/mini/chapter.md", LISTING, f"{LISTING}\n\nSee `{name}`.")
    book.execute()
    for _ in range(2):
        warnings = book.build()[1]
        assert "gone" in warnings
        assert warnings.count("WARNING") == 1
