"""Under *In short*, and in its Chinese twin: of which run its numbers are, and where larger runs say otherwise.

The prose of a chapter quotes the quick run. What leads everywhere else is the best evidence, so a reader of this one
paragraph must be told where that differs; computed from the evidence, so that it cannot be forgotten.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from book.cards import Claim
from book.site import best, captions, elements, languages, press
from book.site.elements import Cell

SECTION, MOST = "In short", 3


def differing(slug: str) -> list[tuple[Claim, press.Best]]:
    """The claims whose verdicts differ between the best evidence and quick; the paper's own first, as on a card."""
    found = [(claim, press.best(slug, claim)) for claim in press.card(slug).claims]
    differ = [(claim, one) for claim, one in found if "quick" in dict(one.against)]
    return sorted(differ, key=lambda pair: pair[0].paper is None)


def note(slug: str, page: str, ledger: str = "") -> nodes.container:
    """The box: one sentence on the run, then a line for each of the first claims that differ, and how many more do.

    ``page`` gives the language, ``ledger`` the anchor of the section with all claims.
    """
    differ = differing(slug)
    more = len(differ) - MOST
    said = [languages.say("quick numbers", page)] + [languages.say("larger differ", page)] * bool(differ)
    box = nodes.container(classes=["in-short"])
    box += elements.paragraph(languages.say("space", page).join(said))
    lines = [elements.paragraph(line(claim, found, page)) for claim, found in differ[:MOST]]
    if more > 0:
        words = languages.say("more differ", page).format(n=more)
        where: Cell = languages.say("claims", page)
        where = nodes.reference("", "", *elements.pieces(where), refid=ledger, internal=True) if ledger else where
        lines.append(elements.paragraph([words, where, languages.say("stop", page)]))
    if lines:
        box += nodes.bullet_list("", *[nodes.list_item("", text) for text in lines])
    return box


def line(claim: Claim, found: press.Best, page: str) -> list[Cell]:
    """The statement, and what it came to; the smaller profiles that agree with the best are left out."""
    return [elements.inline(claim.statement, "language-en"), " ", *best.verdict(found, page, claim)]


def add(app: Sphinx, doctree: nodes.document) -> None:
    """Put the box after the paragraphs of *In short*, and another at the end of the folded Chinese ones."""
    slug = press.slug_of(app.env.docname)
    sections = {section[0].astext(): section for section in doctree.findall(nodes.section)}
    short = sections.get(SECTION)
    if slug is None or short is None or not press.measured(slug, "quick"):
        return
    ledger = sections["Claims"]["ids"][0] if "Claims" in sections else ""
    for folded in languages.folded(short):
        folded += note(slug, languages.FOLDED, ledger)
    texts = [i for i, part in enumerate(short) if i == 0 or isinstance(part, nodes.paragraph | captions.cell_figure)]
    end = next((i for i in range(1, len(short)) if i not in texts), len(short))
    short.insert(end, note(slug, app.env.docname, ledger))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", add)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
