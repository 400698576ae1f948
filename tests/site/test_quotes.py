"""Numbers by name on a page: what a sentence shows, what hovering tells, what is refused, what a draft says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from miniature import PAGE, Book, text_of

from book import chapters, records, reference

TEXT = """## In short

{verdict}`large` The size is {measured}`size`, or {measured}`size @full | mean`.
The paper has {published}`1.5 ± 0.1 (Table 1)`.

```{measures}
rows: {the first: size}
columns: {Size: "{}"}
caption: What was measured
```

```{dropdown} 中文
大小为 {measured}`size - size | unit points`，{measured}`size / size`，{verdict}`large`。
```

"""
FIRST = "```{code-cell} ipython3\n:tags"


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.delenv("FEDBOOK_DRAFT", raising=False)
    book = Book(tmp_path)
    book.edit("papers/mini/chapter.md", FIRST, TEXT + FIRST)
    return book


def test_a_sentence_shows_the_number_with_its_unit_and_hovering_tells_its_origin(book):
    book.execute()
    pages, warnings = book.build()
    assert warnings == ""
    words = text_of(pages[PAGE])
    assert "The size is 1.60 metres, or [not run]. The paper has 1.5 ± 0.1 (Table 1)." in words
    assert '<span class="measured" title="size, quick run, 3 seeds: 0 to 2, mean">1.60 metres</span>' in pages[PAGE]


def test_a_verdict_leads_to_the_row_of_its_claim(book):
    book.execute()
    page = book.build()[0][PAGE]
    link = re.search(r'<a class="[^"]*verdict-link[^"]*" href="#claim-mini-large">(.*?)</a>', page)
    assert "✓ holds" in text_of(link[1])
    row = re.search(r'<tr[^>]*id="claim-mini-large"[^>]*>.*?</tr>', page, re.DOTALL)
    assert "It is large." in text_of(row[0])


def test_units_and_verdicts_in_chinese_text_are_chinese(book):
    book.execute()
    folded = text_of(re.search(r'<details lang="zh".*?</details>', book.build()[0][PAGE], re.DOTALL)[0])
    assert "1.00 倍 [1.00, 1.00]" in folded
    assert "✓ 成立" in folded


def test_a_table_of_evidence_has_caption_and_origin(book):
    book.execute()
    page = book.build()[0][PAGE]
    table = re.search(r'<table[^>]*class="[^"]*measures.*?</table>', page, re.DOTALL)[0]
    assert "What was measured" in text_of(table)
    assert "the first 1.60 metres" in text_of(table)


def test_numbers_of_larger_runs_stand_beside(book):
    book.execute()
    made = reference.run_evidence("mini", "quick")
    full = {**made, "profile": "full", "metrics": {"size": reference.statistics_of({"0": 0.1, "1": 0.11, "2": 0.12})}}
    book.write("papers/mini/evidence/full.json", json.dumps(full | {"digest": records.digest(full)}))
    assert "The size is 1.60 metres, or 0.110 metres." in text_of(book.build()[0][PAGE])


def test_a_draft_says_that_nothing_was_run(book, monkeypatch):
    monkeypatch.setenv("FEDBOOK_DRAFT", "1")
    pages, warnings = book.build()
    assert warnings == ""
    assert "The size is [not run], or [not run]." in text_of(pages[PAGE])
    assert "[未运行]" in pages[PAGE]


def test_a_stale_run_is_not_quoted(book):
    book.execute()
    book.edit("papers/mini/chapter.md", "1 + 1  # two", "1 + 2")
    assert "The size is [not run]" in text_of(book.build()[0][PAGE])


def test_the_card_names_units_of_its_metrics(book):
    book.edit("papers/mini/paper.yml", "unit: metres", "unit: yards")
    book.write("papers/mini/paper.yml", (book.root / "papers/mini/paper.yml").read_text() + "units: {size: feet}\n")
    book.execute()
    assert "The size is 1.60 feet" in text_of(book.build()[0][PAGE])


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("{measured}`size`", "{measured}`sise`", "measured: no metric 'sise' at quick; most like it: size"),
        ("{measured}`size`", "{measured}`size -size`", "is no expression"),
        ("{measured}`size`", "{setting}`rounds`", "setting: no setting 'rounds' at quick"),
        ("{verdict}`large` The", "{verdict}`lerge` The", "paper.yml has no claim 'lerge'; most like it: large"),
        ('{Size: "{}"}', "{Size: size}", "measures: columns: 'size' has no {} for the key of a row"),
    ],
)
def test_what_does_not_exist_is_an_error_on_every_build(book, old, new, complaint):
    book.execute()
    book.edit("papers/mini/chapter.md", old, new)
    for _ in range(2):
        assert complaint in book.build()[1]


def test_the_setting_of_a_run_is_quoted_and_kept_with_its_evidence(book, monkeypatch):
    published = {"rounds": 1200, "rate": 0.01, "data": "mnist1d"}
    good = records.published
    monkeypatch.setattr(records, "published", lambda notebook: good(notebook) | {"setting": published})
    book.edit("papers/mini/chapter.md", "{measured}`size`", "{setting}`rounds` {setting}`rate` {setting}`data`")
    book.execute()
    pages, warnings = book.build()
    assert warnings == ""
    assert "The size is 1 200 0.01 mnist1d, or" in text_of(pages[PAGE])
    reference.accept("mini", "quick")
    assert reference.committed("mini", "quick")["setting"] == published
