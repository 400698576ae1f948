"""*In short* quotes the quick run: it says so, and names the claims on which the best evidence differs."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
import yaml
from miniature import CARD, PAGE, Book, text_of

from book import chapters, records, reference
from book.site import elements, in_short, languages, press

SHORT = """## In short

It is {glue:text}`mini-sum`.

```{dropdown} 中文
两句话。
```

## Claims

```{claims}
```

```{evidence} quick
"""
SLUGS = [slug for slug in press.slugs() if press.card(slug).claims]


def boxes(html: str) -> list[str]:
    """The computed boxes of a page: the English one, then that in the folded Chinese text."""
    return [unescape(text_of(box)) for box in re.findall(r'<div class="in-short[^"]*">.*?</div>', html, re.DOTALL)]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    """Five claims on one metric: full agrees with quick on one, and differs on four; one of these is the paper's."""
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.delenv("FEDBOOK_DRAFT", raising=False)
    book = Book(tmp_path)
    (one,) = CARD["claims"]
    claims = [
        {**one, "id": f"more-than-{least}", "least": float(least), "statement": f"More than {least}.", "paper": paper}
        for least, paper in ((0, None), (1, None), (0.9, None), (0.8, "1.5"), (0.7, None))
    ]
    claims = [{**claim, "id": claim["id"].replace(".", "-")} for claim in claims]
    book.write("papers/mini/paper.yml", yaml.safe_dump({**CARD, "claims": claims}))
    book.edit("papers/mini/chapter.md", "```{claims}\n```\n\n```{evidence} quick\n", SHORT)
    book.execute()
    return book


def measure_full(book: Book) -> None:
    made = reference.run_evidence("mini", "quick")
    small = reference.statistics_of({"0": 0.1, "1": 0.11, "2": 0.12})
    full = {**made, "profile": "full", "metrics": {"size": small}}
    book.write("papers/mini/evidence/full.json", json.dumps(full | {"digest": records.digest(full)}))


def test_without_a_larger_run_only_the_run_is_named(book):
    pages, warnings = book.build()
    assert warnings == ""
    english, chinese = boxes(pages[PAGE])
    assert english.strip() == languages.say("quick numbers", "index")
    assert chinese.strip() == languages.say("quick numbers", languages.FOLDED)


def test_claims_whose_verdicts_differ_are_named_and_those_that_agree_are_not(book):
    measure_full(book)
    pages, warnings = book.build()
    assert warnings == ""
    english, chinese = boxes(pages[PAGE])
    assert (
        "More than 0.8. full✗ opposite 0.110 metres [0.0852, 0.135] · quick✓ holds 1.60 metres [1.35, 1.85]" in english
    )
    places = [english.index(f"More than {n}.") for n in ("0.8", "1", "0.9")]
    assert places == sorted(places), "the paper's own claim comes first, then the order of the card"
    assert "More than 0. " not in english
    assert "More than 0.7" not in english
    assert "On 1 more the verdicts differ; see Claims." in english
    assert "More than 0.8. full✗ 方向相反 0.110 metres" in chinese
    assert "另有 1 条判定不同，见结论一览。" in chinese
    folded = re.search(r'<details lang="zh".*?</details>', pages[PAGE], re.DOTALL)[0]
    assert '<span lang="en">More than 0.8.</span>' in folded, "an English statement within Chinese text"
    assert 'href="#claims"' in pages[PAGE]


@pytest.mark.site
@pytest.mark.parametrize("slug", SLUGS)
def test_every_chapter_tells_in_both_languages_where_its_short_version_is_not_the_best(site, slug):
    found = boxes((site / f"{press.document_of(slug)}.html").read_text(encoding="utf-8"))
    assert len(found) == 2
    for claim, one in in_short.differing(slug)[: in_short.MOST]:
        for box in found:
            assert elements.span(one.verdict.low, one.verdict.high, claim.unit) in box
            assert claim.statement in box
