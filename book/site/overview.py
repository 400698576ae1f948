"""Pages drawn from all chapters together: the reading log, the status table and the list of parts."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx

from book.site import card, elements, languages, press
from book.site.elements import Cell
from book.site.rebuild import BookDirective


class ReadingLogDirective(BookDirective):
    """``{reading-log}``: every entry of the notes by date; those without a chapter are marked *not yet written*."""

    def run(self) -> list[Node]:
        self.draws_press()
        written = set(press.slugs())
        found: list[Node] = []
        for year, notes in groupby(press.entries(), key=lambda entry: card.day(entry.noted)[:4]):
            found.append(nodes.rubric("", year))
            items = [self.item(entry, entry.slug in written) for entry in notes]
            found.append(nodes.bullet_list("", *items, classes=["reading-log"]))
        total, done = len(press.entries()), sum(entry.slug in written for entry in press.entries())
        return [elements.paragraph(f"{total} notes; {done} of them have a chapter so far."), *found]

    def item(self, entry: Any, written: bool) -> nodes.list_item:
        heading: Cell = entry.heading
        if written:
            heading = elements.page_link(heading, press.document_of(entry.slug), self.env.docname)
        mark = None if written else elements.label("not yet written", "unwritten")
        line: list[Cell] = [elements.inline(heading, "heading"), *([" ", mark] if mark else [])]
        return nodes.list_item(
            "",
            elements.paragraph(card.day(entry.noted), "date"),
            elements.paragraph(elements.stack(line, elements.inline(f"{entry.paper} · {entry.part}", "source"))),
        )


class PartsDirective(BookDirective):
    """``{parts}``: the parts of the book, each with its chapters and the number of notes still to be written."""

    def run(self) -> list[Node]:
        self.draws_press()
        written, here = press.slugs(), self.env.docname
        items = []
        for part in press.PARTS:
            chapters = [slug for slug in written if press.card(slug).part == part]
            waiting = sum(entry.part == part and entry.slug not in written for entry in press.entries())
            links: list[Cell] = [elements.page_link(press.card(s).title, press.document_of(s), here) for s in chapters]
            if waiting:
                links.append(elements.label(languages.say("unwritten", here).format(n=waiting), "unwritten"))
            items.append((languages.part(part, here), elements.stack(*links)))
        return [elements.definitions(items, "parts")]


class StatusDirective(BookDirective):
    """``{status}``: the run behind every chapter's evidence at every profile, and whether it is fresh."""

    def run(self) -> list[Node]:
        self.draws_press()
        usual = usual_versions()
        rows = [row for slug in press.slugs() for row in self.rows(slug, usual)]
        if not rows:
            return [elements.paragraph("There are no chapters yet.")]
        head = ["Chapter", "Profile", "State", "Run", "Device", "Seeds", "Cost"]
        table = elements.table(head, rows, [24, 9, 12, 16, 20, 7, 12], "status")
        note = [elements.paragraph(f"Versions, where a row names no others: {named(usual)}.")] if usual else []
        return [*note, table]

    def rows(self, slug: str, usual: dict[str, str]) -> list[list[Cell]]:
        title = elements.page_link(press.card(slug).title, press.document_of(slug), self.env.docname)
        rows: list[list[Cell]] = [
            [elements.inline(p, "profile"), *status_cells(slug, p, usual)] for p in press.PROFILES
        ]
        rows[0].insert(0, elements.tall(title, len(rows)))
        return rows


def usual_versions() -> dict[str, str]:
    """The version of each package that most runs had."""
    runs = [found for slug in press.slugs() for profile in press.PROFILES if (found := press.measured(slug, profile))]
    seen: dict[str, Counter[str]] = {}
    for run in runs:
        for name, version in (run.provenance.get("versions") or {}).items():
            seen.setdefault(name, Counter())[version] += 1
    return {name: counts.most_common(1)[0][0] for name, counts in seen.items()}


def named(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def status_cells(slug: str, profile: str, usual: dict[str, str]) -> list[Cell]:
    """State and provenance of one chapter at one profile; of the versions those that are not the usual ones."""
    found = press.measured(slug, profile)
    if not found:
        return [elements.badge("not run"), *["–"] * 4]
    facts = found.provenance
    memory = facts.get("peak_memory_mb")
    changed = " + local changes" if facts.get("dirty") else ""
    other = {n: v for n, v in (facts.get("versions") or {}).items() if usual.get(n) != v}
    return [
        status_label(slug, profile, found),
        elements.stack(card.day(facts.get("date")), elements.inline(f"{found.commit}{changed}", "source")),
        elements.stack(card.device(facts) or "–", elements.inline(named(other), "source") if other else ""),
        str(len(found.seeds)),
        elements.stack(card.duration(facts.get("seconds")) or "–", f"{memory:.0f} MB" if memory else ""),
    ]


def status_label(slug: str, profile: str, found: press.Measured) -> Cell:
    """Fresh, or what is wrong: the page's own state for quick, the age of the code for real and full."""
    if found.earlier:
        return elements.label("earlier code", "earlier")
    if profile == "quick" and press.state(slug).kind != "fresh":
        return elements.label(press.state(slug).kind, "stale")
    return elements.label("fresh", "fresh")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("reading-log", ReadingLogDirective)
    app.add_directive("parts", PartsDirective)
    app.add_directive("status", StatusDirective)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
