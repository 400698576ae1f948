"""What machines read of the built site: structured data, feed, robots, pictures for links, short addresses, BibTeX."""

from __future__ import annotations

import json
import re
from html import unescape
from xml.etree import ElementTree

import pytest
from PIL import Image
from pybtex.database import parse_string

from book.site import languages, press

pytestmark = pytest.mark.site

SLUGS = press.slugs()
ATOM = {"a": "http://www.w3.org/2005/Atom"}


def page_of(site, slug):
    return (site / f"{press.document_of(slug)}.html").read_text(encoding="utf-8")


def tag(page, name):
    """Content of a meta tag, which must be there once."""
    found = re.findall(rf'<meta (?:property|name)="{name}" content="([^"]*)"', page)
    found += re.findall(rf'<meta content="([^"]*)" (?:property|name)="{name}"', page)
    assert len(found) == 1, f"{name}: {found}"
    return unescape(found[0])


@pytest.mark.parametrize("slug", SLUGS)
def test_a_chapter_tells_what_it_is(site, slug):
    page, card = page_of(site, slug), press.card(slug)
    (data,) = re.findall(r'<script type="application/ld\+json">(.*?)</script>', page)
    told = json.loads(data)
    assert told["headline"] == card.title
    assert told["url"].startswith("https://")
    assert told["url"].endswith(f"{press.document_of(slug)}.html")
    if not card.page:
        assert told["about"]["@type"] == "ScholarlyArticle"
        assert len(told["about"]["author"]) == len(card.authors.split(","))
    assert tag(page, "description") == tag(page, "og:description") == card.summary
    assert tag(page, "og:url") == told["url"]
    assert f'<link rel="canonical" href="{told["url"]}"' in page


@pytest.mark.parametrize("slug", SLUGS)
def test_a_link_to_a_chapter_has_its_picture(site, slug):
    page = page_of(site, slug)
    picture = tag(page, "og:image").split("/_static/")[-1]
    with Image.open(site / "_static" / picture) as image:
        assert image.size == (1200, 630)
    assert tag(page, "og:image:alt").startswith(press.card(slug).title)


def test_every_page_of_the_book_has_a_picture_for_links(site, page):
    if page.startswith("book/"):
        assert "/_static/social/" in tag((site / page).read_text(encoding="utf-8"), "og:image")


def test_the_feed_has_every_measured_chapter_the_last_one_first(site):
    feed = ElementTree.parse(site / "feed.xml")
    dates = [entry.findtext("a:updated", namespaces=ATOM) for entry in feed.findall("a:entry", ATOM)]
    assert len(dates) == sum(any(press.measured(slug, p) for p in press.PROFILES) for slug in SLUGS)
    assert dates == sorted(dates, reverse=True)
    assert dates[0] == feed.findtext("a:updated", namespaces=ATOM)
    assert 'rel="alternate" type="application/atom+xml"' in (site / "book/pages/index.html").read_text()


def test_robots_name_the_site_map(site):
    address = re.search(r"^Sitemap: (\S+)$", (site / "robots.txt").read_text(), re.MULTILINE).group(1)
    assert (site / address.rsplit("/", 1)[-1]).is_file()


@pytest.mark.parametrize("slug", SLUGS)
def test_the_short_address_of_a_chapter_leads_to_it(site, slug):
    target = re.search(r"url=([^\"]+)\"", (site / f"{slug}.html").read_text()).group(1)
    assert (site / target).is_file()
    assert target == f"{press.document_of(slug)}.html"


@pytest.mark.parametrize("slug", SLUGS)
def test_the_entry_to_cite_a_chapter_is_bibtex(site, slug):
    block = re.search(r'<div class="highlight-bibtex.*?<pre>(.*?)</pre>', page_of(site, slug), re.DOTALL).group(1)
    entries = parse_string(unescape(re.sub(r"<[^>]+>", "", block)), "bibtex").entries
    assert entries[f"fedlib-{slug}"].fields["title"] == press.card(slug).title
    assert len(entries) == (1 if press.card(slug).page else 2)


def test_the_home_page_shows_findings_with_their_verdicts(site):
    home = (site / "book/pages/index.html").read_text(encoding="utf-8")
    found = re.findall(r'<div class="finding[^"]*">(.*?)</div>', home, re.DOTALL)
    assert len(found) == 3
    assert all(re.search(r'class="[^"]*verdict-', one) and re.search(r'<img[^>]+alt="[^"]{40,}', one) for one in found)


def test_the_chinese_page_says_its_language_and_has_no_holes(site):
    body = (site / "book/pages/zh.html").read_text(encoding="utf-8")
    text = body[body.index('<div lang="zh"') :]
    assert not re.search(r"[\u4e00-\u9fff，。]\s[\u4e00-\u9fff]", re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL))
    assert '<span lang="en" class="verdict verdict-holds">✓ holds</span>' in text
    assert re.search(r'<span class="verdict verdict-holds">✓ 成立</span>', text)
    assert re.search(r'lang="en"[^>]*>(?:<span[^>]*>)?Foundations: federated averaging<', text)


@pytest.mark.site
def test_the_chinese_home_names_the_parts_in_chinese_and_leads_to_how_to_read(site):
    body = (site / "book/pages/zh.html").read_text(encoding="utf-8")
    text = body[body.index('<div lang="zh"') :]
    assert set(languages.PARTS) == set(press.PARTS)
    for part in press.PARTS:
        assert languages.PARTS[part] in text
    assert "not yet written" not in text
    assert 'href="how-to-read.html"' in text
