"""What machines read: structured data, absolute addresses for previews, the feed, robots.txt, short addresses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

from book.site import best, citing, press

ATOM = "http://www.w3.org/2005/Atom"
FEED = "feed.xml"


def address(config: Config, document: str) -> str:
    """The public address of a page."""
    return f"{config.html_baseurl}{document}.html"


def configure(app: Sphinx, config: Config) -> None:
    """Previews get absolute addresses; every chapter a short one, its slug, that outlives a move of the page."""
    if "ogp_site_url" in config:
        config.ogp_site_url = config.ogp_site_url or config.html_baseurl
    if "redirects" in config:
        template = Path(__file__).parents[1] / "templates" / "redirect.html"
        config.redirect_html_template_file = config.redirect_html_template_file or str(template)
        config.redirects = {slug: f"{press.document_of(slug)}.html" for slug in press.slugs()} | config.redirects


def structured(env: BuildEnvironment, slug: str) -> dict[str, Any]:
    """A chapter in the vocabulary of schema.org: an article about a paper, and the data sets of its measurements."""
    config, card = env.config, press.card(slug)
    url = address(config, press.document_of(slug))
    about = {
        "@type": "ScholarlyArticle",
        "name": citing.title(env, card) or card.title,
        "author": [{"@type": "Person", "name": name.strip()} for name in (card.authors or "").split(",")],
        "url": card.links.paper,
    }
    measured = [
        {
            "@type": "Dataset",
            "name": f"{card.title}: measurements at the {profile} profile",
            "description": f"{len(found.metrics)} metrics over {len(found.seeds)} seeds, with their provenance.",
            "dateModified": str(found.provenance.get("date", ""))[:10] or None,
            "version": found.commit,
            "url": url,
            "license": "https://opensource.org/license/mit",
        }
        for profile in press.BEST_FIRST
        if (found := press.measured(slug, profile))
    ]
    chapter = {
        "@context": "https://schema.org",
        "@type": "Article",
        "headline": card.title,
        "description": card.summary,
        "url": url,
        "inLanguage": ["en", "zh"],
        "keywords": ", ".join(card.tags),
        "dateModified": verified(slug) or None,
        "isPartOf": {"@type": "Book", "name": config.html_title, "url": config.html_baseurl},
        "about": None if card.page else {name: value for name, value in about.items() if value},
        "hasPart": [{name: value for name, value in one.items() if value} for one in measured],
    }
    return {name: value for name, value in chapter.items() if value}


def verified(slug: str) -> str:
    """When the chapter's evidence was measured last, an ISO date with time; "" where it never was."""
    found = [press.measured(slug, profile) for profile in press.PROFILES]
    return max((str(one.provenance.get("date") or "") for one in found if one), default="")


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Structured data and the feed's address, in the head of a page."""
    head = f'\n<link rel="alternate" type="application/atom+xml" title="{app.config.html_title}" '
    head += f'href="{context["pathto"](FEED, resource=True)}" />'
    if slug := press.slug_of(page):
        data = json.dumps(structured(app.env, slug), ensure_ascii=False).replace("</", "<\\/")
        head += f'\n<script type="application/ld+json">{data}</script>'
    context["metatags"] = context.get("metatags", "") + head


def feed(config: Config) -> bytes:
    """An Atom feed of the chapters, the most recently measured ones first; a chapter measured again comes up again."""
    root = Xml.Element("feed", xmlns=ATOM)
    dated = sorted(((when, slug) for slug in press.slugs() if (when := verified(slug))), reverse=True)
    _child(root, "title", config.html_title)
    _child(root, "id", config.html_baseurl)
    _child(root, "updated", dated[0][0] if dated else "1970-01-01T00:00:00+00:00")
    _child(_child(root, "author"), "name", config.author)
    _child(root, "link", rel="self", href=config.html_baseurl + FEED)
    _child(root, "link", rel="alternate", href=config.html_baseurl)
    for when, slug in dated:
        card, url = press.card(slug), address(config, press.document_of(slug))
        entry = _child(root, "entry")
        _child(entry, "title", card.title)
        _child(entry, "id", url)
        _child(entry, "link", rel="alternate", href=url)
        _child(entry, "updated", when)
        found = press.best_of(slug)
        said = ", ".join(f"{n} {verdict}" for verdict, n in best.counts(found).items())
        told = f" Claims, on the best evidence ({best.profiles(found)}): {said}." if said else ""
        _child(entry, "summary", card.summary + told)
    Xml.indent(root)
    return Xml.tostring(root, encoding="utf-8", xml_declaration=True)


def _child(parent: Xml.Element, name: str, text: str | None = None, **attributes: str) -> Xml.Element:
    made = Xml.SubElement(parent, name, attributes)
    made.text = text
    return made


def write(app: Sphinx, error: Exception | None) -> None:
    """The feed and robots.txt, beside the pages."""
    if error is None and app.builder.format == "html":
        site = Path(app.outdir)
        (site / FEED).write_bytes(feed(app.config))
        robots = f"User-agent: *\nAllow: /\n\nSitemap: {app.config.html_baseurl}sitemap.xml\n"
        (site / "robots.txt").write_text(robots, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """The head after sphinxext.opengraph has written its part of it."""
    app.connect("config-inited", configure, priority=400)
    app.connect("html-page-context", describe, priority=800)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
