"""The best evidence leads: full, else real, else quick; it is named, and what differs stands beside it."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from miniature import HOME, PAGE, Book, text_of

from book import chapters, records, reference
from book.site import best, card, elements, press

SLUGS = [slug for slug in press.slugs() if press.card(slug).claims]


def words(found: press.Best, page: str = "index") -> str:
    return elements.paragraph(best.verdict(found, page)).astext()


@pytest.fixture
def judged(monkeypatch):
    """A claim at three profiles, and a table of what it came to, to be filled in."""
    table: dict[str, press.Verdict] = {}
    monkeypatch.setattr(press, "verdict_of", lambda slug, claim, p: table.get(p, press.Verdict("not run")))
    claim = SimpleNamespace(profiles=["quick", "real", "full"])
    return table, lambda: press.best("any", claim)


def test_the_largest_profile_leads_and_those_that_differ_stand_beside_it(judged):
    table, found = judged
    table["quick"] = press.Verdict("holds", 1.0)
    assert found() == press.Best("quick", table["quick"])
    table["real"] = press.Verdict("holds", 0.9)
    assert found() == press.Best("real", table["real"])
    table["full"] = press.Verdict("opposite", 0.1)
    assert found() == press.Best("full", table["full"], (("real", table["real"]), ("quick", table["quick"])))
    assert words(found()) == "full✗ opposite · real✓ holds · quick✓ holds"


def test_what_was_not_measured_is_no_evidence(judged):
    table, found = judged
    table["quick"] = press.Verdict("opposite", 0.0)
    table["real"] = press.Verdict("not run", problem="metric 'size' was never recorded")
    assert found().profile == "quick"
    table.clear()
    assert words(found()) == "– not run"
    assert best.origin([found()], "index") == ""


def test_evidence_of_earlier_code_leads_and_says_so(judged):
    table, found = judged
    table["quick"] = press.Verdict("holds", 1.0)
    table["real"] = press.Verdict("opposite", 0.0, earlier=True)
    assert words(found()) == "real✗ opposite earlier code · quick✓ holds"
    assert words(found(), "book/pages/zh") == "real✗ 方向相反 较早的代码 · quick✓ 成立"
    said = (
        "Each verdict is that of the best evidence there is on its claim: real 1. On 1 claims a smaller profile came to"
    )
    assert best.origin([found()], "index") == f"{said} something else. 1 were measured with earlier code."


def test_an_open_claim_says_how_many_seeds_would_settle_it():
    assert best.seeds(press.Verdict("open", 0.1, seeds_needed=14)) == "about 14 seeds would settle it"
    assert best.seeds(press.Verdict("open", 0.1, seeds_needed=101)) == "more than 100 seeds would settle it"
    assert best.seeds(press.Verdict("holds", 0.1)) == ""


def test_a_tally_says_how_many_false_ones_to_expect_and_which_stand_over_the_whole_book():
    values = [("holds", 0.001), ("holds", 0.024), ("open", 0.3), ("open", 0.6), ("not run", None)]
    found = [press.Best("quick", press.Verdict(word, 0.1, p=p)) for word, p in values]
    said = "Of those that hold, expect 0.10 at most to be false; 2 stand a correction over the whole book."
    assert best.expect(found, "index") == said
    found += [press.Best("quick", press.Verdict("open", 0.1, p=0.9))] * 4
    assert "expect 0.20 at most to be false; 1 stand" in best.expect(found, "index")
    assert best.expect(found[2:], "index") == "", "where nothing holds nothing is said"


@pytest.mark.parametrize(
    ("terms", "shown"),
    [
        ({"against": "b"}, "+25.0 points [10.0, 40.0]"),
        ({"against": None}, "25.0\u00a0% [10.0, 40.0]"),
        ({"against": "b", "scale": "log"}, "0.250 [0.100, 0.400]"),
    ],
)
def test_a_ratio_of_two_accuracies_is_no_number_of_points(terms, shown):
    claim = SimpleNamespace(unit="accuracy", **{"scale": "plain", **terms})
    assert best.value(press.Verdict("holds", 0.25, 0.1, 0.4), claim, "index") == shown


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.delenv("FEDBOOK_DRAFT", raising=False)
    return Book(tmp_path)


def test_pages_lead_with_full_evidence_where_quick_says_otherwise(book):
    book.write(
        "index.md", HOME.replace("# Home\n", "# Home\n\n```{tally}\n```\n\n```{finding} mini 1\n:claim: large\n```\n")
    )
    book.execute()
    made = reference.run_evidence("mini", "quick")
    assert made["claims"]["large"]["verdict"] == "holds"
    small = reference.statistics_of({"0": 0.1, "1": 0.2, "2": 0.1})
    full = {**made, "profile": "full", "metrics": {"size": small}}
    book.write("papers/mini/evidence/full.json", json.dumps(full | {"digest": records.digest(full)}))
    pages, warnings = book.build()
    assert warnings == ""
    home, chapter = text_of(pages["index.html"]), text_of(pages[PAGE])
    assert "Of 0 other claims, 0 hold; 0 of 0 identities are kept." in home
    assert "✗ opposite 1" in home
    assert not re.search(r"✓ holds 1(?!\.)", home)
    assert "full 1. On 1 claims a smaller profile came to something else." in home
    finding = "full✗ opposite 0.133 metres [−0.0101, 0.277] · quick✓ holds 1.60 metres [1.35, 1.85] It is large."
    assert finding in home, "a finding has the numbers of the best profile, and of those that differ"
    claims = re.search(r"It claims.*?What held(.*?)Last run", chapter)
    assert re.search(r"It claims\W+full\s?✗ opposite · quick\s?✓ holds It is large\.", chapter)
    assert claims[1].index("full") < claims[1].index("quick")
    assert "The profiles do not agree on 1 of the claims." in claims[1]


@pytest.mark.site
def test_the_claims_page_has_a_verdict_for_every_claim_at_every_profile_the_best_first(site):
    page = (site / "book/pages/claims.html").read_text(encoding="utf-8")
    tables = re.findall(r'<table class="[^"]*ledger.*?</table>', page, re.DOTALL)
    for slug, table in zip(SLUGS, tables, strict=True):
        claims = press.card(slug).claims
        columns = re.findall(r"<th[^>]*><p>(.*?)</p>", table)[2:]
        assert set(map(str.lower, columns)) == {p for claim in claims for p in claim.profiles}
        measured = [press.measured(slug, name.lower()) is not None for name in columns]
        assert measured == sorted(measured, reverse=True)
        seen = re.findall(r'class="verdict [^"]*">(?:&lt;|.) ([a-z ]+)<', table)
        wanted = [
            press.verdict_of(slug, c, p.lower()).verdict for c in claims for p in columns if p.lower() in c.profiles
        ]
        assert seen == wanted


@pytest.mark.site
@pytest.mark.parametrize("slug", SLUGS)
def test_a_card_shows_the_best_evidence_on_its_claims(site, slug):
    page = (site / f"{press.document_of(slug)}.html").read_text(encoding="utf-8")
    shown = re.search(r"It claims.*?</dd>", page, re.DOTALL)[0]
    own = card.leading(press.card(slug))[:3]
    lines = re.findall(r'<span class="line">(.*?)(?=<span class="line">|</dd>)', shown, re.DOTALL)
    for claim, line in zip(own, lines, strict=True):
        found = press.best(slug, claim)
        seen = re.findall(r'class="profile">(\w+)</span> ?<span class="verdict[^"]*">(?:&lt;|.) ([a-z ]+)<', line)
        assert seen == [(p, v.verdict) for p, v in ((found.profile, found.verdict), *found.against)], claim.id


@pytest.mark.site
@pytest.mark.parametrize("name", ["index", "zh"])
def test_the_tally_counts_every_primary_claim_once_on_its_best_evidence(site, name):
    page = (site / f"book/pages/{name}.html").read_text(encoding="utf-8")
    claims = [(slug, claim) for slug in SLUGS for claim in press.card(slug).claims if claim.kind == "primary"]
    found = [press.best(slug, claim) for slug, claim in claims]
    said = re.search(r'class="tally" role="img" aria-label="([^"]*)"', page)[1]
    numbers = [int(n) for n in re.findall(r"\d+", said)]
    assert numbers == [len(claims), *best.counts(found).values()]
    assert best.profiles(found, f"book/pages/{name}") in page


@pytest.mark.site
def test_pictures_and_feed_tell_the_same(site):
    feed = {
        entry.findtext("{*}id"): entry.findtext("{*}summary")
        for entry in ElementTree.parse(site / "feed.xml").iterfind("{*}entry")
    }
    for slug in SLUGS:
        found = press.best_of(slug)
        page = unescape((site / f"{press.document_of(slug)}.html").read_text(encoding="utf-8"))
        assert f"(best evidence: {best.profiles(found)})" in page
        (summary,) = [text for address, text in feed.items() if f"/{slug}/" in address]
        said = ", ".join(f"{n} {verdict}" for verdict, n in best.counts(found).items())
        assert summary.endswith(f"on the best evidence ({best.profiles(found)}): {said}.")
