"""`new`: a chapter that runs, has every section, and waits to be filled in."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from book import cards, chapters, files
from book.errors import PressError

NEXT = """next:
  1. fill in papers/{slug}/paper.yml: citation (now that of FedProx), authors, venue, and the claims, these before the
     first result is seen (a card without claims is a draft)
  2. add the citation to book/references.bib, and `- file: papers/{slug}/chapter` to _toc.yml under its part
  3. write papers/{slug}/chapter.md, and try it: python -m book run {slug} --profile smoke
  4. look at its length: python -m book list --form; and at its code: python -m book.lint {slug}
  5. when it is right: run, accept and check it at smoke and quick"""

# A chapter itself, in which the slug and the title stand as in any other.
TEMPLATE = Path(__file__).parent / "templates" / "chapter.md"
SLUG, TITLE = "new-chapter", "A new chapter"

_CLAIM = """
# A claim to begin with: put it in place of the empty list above, and {verdict}`fedprox-wins` into "In short".
# claims:
#   - id: fedprox-wins
#     kind: primary
#     statement: FedProx ends above FedAvg.
#     source: Figure 1
#     paper: null
#     metric: accuracy/fedprox
#     against: accuracy/fedavg
#     direction: above
#     least: 0.01
#     unit: accuracy
#     profiles: [quick, real, full]
"""


def create(slug: str) -> list[Path]:
    """Write chapter.md and paper.yml of a new chapter and return their paths.

    What the register of entries knows about the slug is filled in. Raises PressError for a slug of another form, or
    when the chapter is there already.
    """
    if not re.fullmatch(cards.SLUG.strip("^$"), slug):
        raise PressError(f"{slug!r} cannot be a slug: small letters, digits and hyphens, as in per-fedavg")
    if (chapters.ROOT / slug).is_dir():
        raise PressError(f"{slug!r} cannot be a slug: it is a folder of the book itself; take another, as per-fedavg")
    paths = [chapters.chapter_path(slug), chapters.card_path(slug)]
    if there := [p for p in paths if p.exists()]:
        raise PressError(f"{there[0]} is there already; `new` never overwrites")
    card = _card(slug)
    text = files.read_text(TEMPLATE).replace(f"# {TITLE}\n", f"# {card['title']}\n").replace(SLUG, slug)
    for path, content in zip(paths, (text, _as_yaml(card) + _CLAIM), strict=True):
        files.write(path, content)
    cards.load(slug)  # what was written passes its own schema
    return paths


def _card(slug: str) -> dict[str, object]:
    entry = None
    if (chapters.ROOT / "book" / "entries.yml").exists():
        entry = next((e for e in cards.entries() if e.slug == slug), None)
    needs = {"smoke": (5, "digits"), "quick": (30, "digits"), "real": (300, "cifar10"), "full": (3600, "cifar10")}
    return {
        "slug": slug,
        "entry": entry.number if entry else None,
        "title": entry.heading if entry else slug.replace("-", " ").capitalize(),
        "summary": f"Draft of the chapter {slug}.",
        "noted": [entry.noted] if entry else [],
        "part": entry.part if entry else cards.PARTS[0],
        "tags": [],
        "citation": "li2020federated",  # what the draft compares; a key that the bibliography has
        "authors": "to be filled in",
        "venue": "to be filled in",
        "links": {"paper": None, "code": None},
        "builds_on": [],
        "profiles": {name: {"seconds": s, "memory_mb": 800, "data": [data]} for name, (s, data) in needs.items()},
        "claims": [],
    }


def _as_yaml(card: dict[str, object]) -> str:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    return yaml.dump(card, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
