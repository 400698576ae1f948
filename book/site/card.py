"""The card at the top of a chapter: what the paper is, what held up, when it last ran, how to run it again."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.nodes import Node
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

from book import records
from book.cards import Card, Claim
from book.site import best, citing, elements, notebooks, press, source
from book.site.elements import Cell
from book.site.rebuild import BookDirective

REPRODUCE = "book/pages/reproduce"
FIRST = ("Paper", "Noted", "Builds on", "It claims")  # what a card shows unfolded


class CardDirective(BookDirective):
    """``{card}``: drawn from paper.yml and the evidence of the chapter that it stands in."""

    def run(self) -> list[Node]:
        slug = press.slug_of(self.env.docname)
        if slug is None:
            raise self.error("a card belongs at the top of papers/<slug>/chapter.md; this page is not a chapter")
        card = press.card(slug)
        try:
            title = citing.title(self.env, card)
        except ExtensionError as problem:
            raise self.error(str(problem)) from None
        box = nodes.container(classes=["book-card"])
        facts = rows(card, slug, self.env.docname, title)
        first = [row for row in facts if row[0] in FIRST]
        if first:
            box += elements.definitions(first, "card-facts")
        box += elements.paragraph(elements.join(places(self.config, slug, self.env.docname), " · "), "card-places")
        clone = elements.page_link("in a clone of the repository", REPRODUCE, self.env.docname)
        more = [
            elements.definitions([row for row in facts if row not in first], "card-facts"),
            elements.paragraph(["Run it again, ", clone], "card-run-title"),
            elements.command(commands(slug)),
        ]
        box += self.folded("What held, when it ran, how to run it again", more)
        cite = citing.bibtex(self.env, card, self.env.docname)
        box += self.folded("Cite this chapter", [nodes.literal_block(cite, cite, language="bibtex")])
        return [box]

    def folded(self, title: str, content: list[Node]) -> list[Node]:
        """Content behind a line that folds out: the answer of a chapter has the first screen."""
        lines = [f"````{{dropdown}} {title}", "place", "````"]
        frame = nodes.container()
        self.state.nested_parse(StringList(lines, self.env.docname), self.content_offset, frame)
        next(node for node in frame.findall(nodes.paragraph) if node.astext() == "place").replace_self(content)
        return list(frame.children)


def rows(card: Card, slug: str, document: str, paper_title: str = "") -> list[tuple[str, Cell]]:
    """The card's lines, those that are shown unfolded first; a line without content is left out."""
    links = [elements.link(name, address) for name, address in card.links if address]
    paper: list[Cell] = [f"{card.authors}. ", f"{card.venue}."]
    if paper_title:
        paper.insert(1, [nodes.emphasis("", paper_title), ". "])
    if links:
        paper += [" ", *elements.join(links, " · ")]
    known = set(press.slugs())
    builds = [
        elements.page_link(press.card(s).title, press.document_of(s), document) if s in known else s
        for s in card.builds_on
    ]
    facts: list[tuple[str, Cell]] = [] if card.page else [("Paper", paper)]
    if card.noted:
        facts.append(("Noted", ", ".join(day(d) for d in card.noted)))
    if builds:
        facts.append(("Builds on", elements.join(builds)))
    if said := claimed(card, document):
        facts.append(("It claims", elements.stack(*said)))
    if card.tags:
        facts.append(("Tags", [elements.inline(tag, "tag") for tag in card.tags]))
    if near := related(card):
        links = [elements.page_link(press.card(s).title, press.document_of(s), document) for s in near]
        facts.append(("Related", elements.stack(*links)))
    if card.claims:
        facts.append(("What held", elements.stack(*held(slug))))
    facts.append(("Last run", last_runs(slug)))
    return facts


def claimed(card: Card, document: str, most: int = 3) -> list[Cell]:
    """The first claims, with what came of each on the best evidence, and where another differs."""
    lines = leading(card)[:most]
    return [[*best.verdict(press.best(card.slug, claim), document), " ", claim.statement] for claim in lines]


def leading(card: Card) -> list[Claim]:
    """The primary claims, then others of the paper's own that can fail."""
    first = [claim for claim in card.claims if claim.kind == "primary"]
    return first + [c for c in card.claims if c.paper is not None and c.kind not in ("primary", "identity")]


def related(card: Card, most: int = 3) -> list[str]:
    """Chapters that share the most tags with this one, two at least; those that it builds on are named already."""
    others = [press.card(slug) for slug in press.slugs() if slug not in (card.slug, *card.builds_on)]
    shared = {other.slug: len(set(card.tags) & set(other.tags)) for other in others if not other.page}
    return sorted((slug for slug, n in shared.items() if n > 1), key=lambda slug: -shared[slug])[:most]


def held(slug: str) -> list[Cell]:
    """One line per profile, the best evidence first: its primary claims, and how many of the others hold."""
    lines: list[Cell] = []
    for profile in press.measured_first(press.PROFILES, slug):
        groups = [("primary", ["primary"]), ("others", ["secondary", "mechanism"]), ("identities", ["identity"])]
        counted = {name: press.tally(slug, profile, kinds) for name, kinds in groups}
        parts = [_held(name, counts) for name, counts in counted.items() if any(counts.values())]
        if parts and all(counts["not run"] == sum(counts.values()) for counts in counted.values()):
            parts = [elements.badge("not run")]
        if parts:
            lines.append([elements.inline(profile, "profile"), *elements.join(parts, "; ")])
    if differ := sum(bool(one.against) for one in press.best_of(slug)):
        lines.append(f"The profiles do not agree on {differ} of the claims.")
    return lines or ["no claims yet"]


def _held(name: str, counts: dict[str, int]) -> Cell:
    """How many of some claims hold, and what the others came to."""
    rest = [[elements.badge(verdict), f" {n}"] for verdict, n in counts.items() if n and verdict != "holds"]
    line: list[Cell] = [f"{name}: {counts['holds']} of {sum(counts.values())} hold"]
    return line + ([" · ", *elements.join(rest, " · ")] if rest else [])


def last_runs(slug: str) -> Cell:
    """Provenance of the evidence at every profile that was measured, the best first."""
    lines: list[Cell] = []
    for profile in press.measured_first(press.PROFILES, slug):
        if found := press.measured(slug, profile):
            line: list[Cell] = [elements.inline(profile, "profile"), provenance(found.provenance)]
            labels = ["earlier code"] * found.earlier + ["unknown data"] * bool(found.unknown)
            lines.append(line + [part for text in labels for part in (" ", elements.label(text, "earlier"))])
    return elements.stack(*lines) if lines else "not run yet"


def provenance(facts: dict[str, Any]) -> str:
    """Date, commit, device and precision, versions, time and memory of a run, in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted((facts.get("versions") or {}).items()))
    commit = str(facts.get("commit") or "")[:7]
    parts = [
        day(facts.get("date")),
        f"commit {commit}" + (" with local changes" if facts.get("dirty") else "") if commit else "",
        device(facts),
        versions,
        duration(facts.get("seconds")),
        f"{facts['peak_memory_mb']:.0f} MB" if facts.get("peak_memory_mb") else "",
    ]
    return " · ".join(part for part in parts if part)


def device(facts: dict[str, Any]) -> str:
    """What a run computed on, as the run itself described it, and in which precision where that is not the usual."""
    place = str(facts.get("device") or "").replace("1 threads", "1 thread")
    return ", in ".join(part for part in (place, records.narrowed(facts)) if part)


def day(date: Any) -> str:
    """A date without its time."""
    return str(date or "")[:10]


def duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def commands(slug: str) -> str:
    return f'make run P={slug}\nmake run P={slug} ARGS="--profile real"\nmake lab ARGS=notebooks/{slug}.ipynb'


def places(config: Config, slug: str, document: str) -> list[Cell]:
    """Where the chapter can be had: its notebook with outputs, as a file or in Colab, and its text."""
    name = config.html_theme_options.get("repository_url", "").removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{name}/blob/notebooks/{slug}.ipynb"
    download = notebooks.link("Download the notebook", slug, document)
    packed = notebooks.link("as zip", slug, document, ".zip")
    return [
        *([[download, " (where this page was opened from a file: ", packed, ")"]] if download and packed else []),
        elements.link("Source of this page", source.address(config, f"{press.document_of(slug)}.md")),
        [elements.link("Open in Colab", colab), " (as last published; needs a network and a Google account)"],
    ]


def add_description(app: Sphinx, doctree: nodes.document) -> None:
    """The card's summary as the page's description, for search engines and for social cards."""
    slug = press.slug_of(app.env.docname)
    if slug:
        summary = press.card(slug).summary
        doctree.insert(0, nodes.meta("", name="description", content=summary))
        app.env.metadata[app.env.docname]["og:description"] = summary


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("card", CardDirective, override=True)  # in place of the panel of sphinx-design
    app.connect("doctree-read", add_description)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
