"""A finding: a figure of a chapter's run, with the claim that it belongs to and the verdict, on another page."""

from __future__ import annotations

import os
from base64 import b64decode
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from docutils.nodes import Node
from docutils.parsers.rst import directives
from sphinx.application import Sphinx

from book import chapters
from book.site import best, elements, languages, press
from book.site.elements import Cell
from book.site.rebuild import BookDirective


class FindingDirective(BookDirective):
    """``{finding} slug number``: a figure of the quick run, counted from 1; ``:claim:`` names a claim of the card.

    The body, where there is one, says the claim in other words: those of another language, say.
    """

    required_arguments = 2
    has_content = True
    option_spec = {"claim": directives.unchanged_required}

    def run(self) -> list[Node]:
        self.draws_press()
        slug, number = self.arguments
        if slug not in press.slugs() or not number.isdigit() or number == "0":
            raise self.error(f"finding: expected a chapter and the number of a figure from 1, got {slug} {number}")
        card, claim = press.card(slug), self.options.get("claim")
        box = nodes.container(classes=["finding"])
        if claim:
            known = {one.id: one for one in card.claims}
            if claim not in known:
                raise self.error(f"finding: papers/{slug}/paper.yml has no claim {claim!r}")
            signs = best.verdict(press.best(slug, known[claim]), self.env.docname, known[claim])
            said, _ = self.parse_inline(" ".join(self.content), lineno=self.lineno)
            box += elements.paragraph([*signs, " ", said or known[claim].statement], "finding-claim")
        figures = figures_of(slug)
        if figures and int(number) > len(figures):
            raise self.error(f"finding: the run of {slug} has {len(figures)} figures, not {number}")
        if figures:
            picture, alt, (width, height) = figures[int(number) - 1]
            path = chapters.build_folder() / "findings" / f"{slug}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture)
            place = os.path.relpath(path, Path(self.env.srcdir) / Path(self.env.docname).parent)
            box += nodes.image(uri=place, alt=alt, width=f"{width}px", height=f"{height}px")
        else:
            box += elements.paragraph(elements.label("not yet executed", "unwritten"))
        where: list[Cell] = [elements.page_link(card.title, press.document_of(slug), self.env.docname)]
        if figures:
            where += [" · ", languages.say("figure", self.env.docname)]
        box += elements.paragraph(where, "finding-source")
        return [box]


def figures_of(slug: str) -> list[tuple[bytes, str, tuple[int, int]]]:
    """The figures of a chapter's quick run in order: PNG, alternative text, width and height in pixels."""
    path = press.executed_path(slug)
    if not path.exists():
        return []
    found = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if content := output.get("data", {}).get("image/png"):
                facts = output.metadata.get("image/png", {})
                found.append(
                    (b64decode(content), facts.get("alt", ""), (facts.get("width", 0), facts.get("height", 0)))
                )
    return found


class TallyDirective(BookDirective):
    """``{tally}``: the verdicts on the primary claims of the whole book by the best evidence, as one bar."""

    def run(self) -> list[Node]:
        self.draws_press()
        here, found = self.env.docname, press.best_of(*press.slugs(), kinds=("primary",))
        counts = best.counts(found)
        if not counts:
            return [elements.paragraph("No primary claims have been written down yet.")]
        whole = sum(counts.values())
        words = {verdict: languages.verdict(verdict, self.env.docname) for verdict in counts}
        said = languages.say("tally", self.env.docname).format(
            whole=whole, parts=", ".join(f"{n} {words[verdict]}" for verdict, n in counts.items())
        )
        parts = "".join(
            f'<span class="tally-{verdict.replace(" ", "-")}" style="width:{100 * n / whole:.3f}%"></span>'
            for verdict, n in counts.items()
        )
        bar = nodes.raw("", f'<div class="tally" role="img" aria-label="{said}">{parts}</div>', format="html")
        each = [[elements.badge(verdict, words[verdict]), f" {n}"] for verdict, n in counts.items()]
        said = languages.say("space", here).join(
            filter(None, [best.expect(found, here), best.others(here), best.origin(found, here)])
        )
        return [bar, elements.paragraph(elements.join(each, " · "), "tally-key"), elements.paragraph(said)]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("finding", FindingDirective)
    app.add_directive("tally", TallyDirective)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
