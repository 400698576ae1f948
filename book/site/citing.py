"""How to cite: the paper of a chapter, from the bibliography, and the chapter itself."""

from __future__ import annotations

from typing import Any

from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

from book.cards import Card
from book.site import press

ENTRY = """@misc{{fedlib-{slug},
  author = {{{{{author}}}}},
  title = {{{title}}},
  howpublished = {{Chapter of: {book}}},
  year = {{{year}}},
  note = {{{note}}},
  url = {{{url}}}
}}"""


def paper(env: BuildEnvironment, card: Card) -> Any:
    """The paper's entry of the bibliography (pybtex); None for a page about no paper, or without a bibliography."""
    domain: Any = env.domains.get("cite")
    if domain is None or card.citation is None:
        return None
    entry = domain.bibdata.data.entries.get(card.citation)
    if entry is None:
        raise ExtensionError(f"papers/{card.slug}/paper.yml: citation: {card.citation!r} is not in book/references.bib")
    return entry


def title(env: BuildEnvironment, card: Card) -> str:
    """The paper's title in plain text; "" where :func:`paper` is None."""
    entry = paper(env, card)
    return str(entry.fields["title"]).replace("{", "").replace("}", "") if entry else ""


def bibtex(env: BuildEnvironment, card: Card, document: str) -> str:
    """BibTeX entries of the chapter, with its best evidence, and of its paper."""
    profile = press.measured_first(press.PROFILES, card.slug)[0]
    found, config = press.measured(card.slug, profile), env.config
    date = str(found.provenance.get("date") or "")[:10] if found else ""
    chapter = ENTRY.format(
        slug=card.slug,
        author=config.author,
        title=card.title,
        book=config.html_title,
        year=date[:4] or config.copyright[:4],
        note=f"Measured at the {profile} profile on {date}, commit {found.commit}" if found else "Not measured yet",
        url=f"{config.html_baseurl}{document}.html",
    )
    entry = paper(env, card)
    return chapter + (f"\n\n{entry.to_string('bibtex').strip()}" if entry else "")
