"""Numbers in prose: ``{measured}``, ``{setting}``, ``{published}``, ``{verdict}``, and the table ``{measures}``.

What they say is computed by :mod:`book.expressions` and :mod:`book.quoting`; here it becomes nodes, and an error names
the place. In a draft the numbers of the page's own run read *[not run]*.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.nodes import Node, system_message
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

from book import expressions, quoting
from book.site import best, elements, evidence, languages, ledger, press, rebuild
from book.site.rebuild import BookDirective

SHOWN = "quick"  # the profile whose outputs a page shows


class quote(nodes.Inline, nodes.TextElement):
    """A number within a sentence; hovering tells what it is."""


def evidence_of(slug: str, committed: bool = False) -> dict[str, expressions.Evidence]:
    """Evidence of a chapter by profile. That of the page's own run is held back where the run is not of the present
    code, unless what is ``committed`` may stand in for it.
    """
    found: dict[str, expressions.Evidence] = {}
    for profile in press.PROFILES:
        if seen := press.measured(slug, profile):
            held = profile == SHOWN and not committed and press.state(slug).kind != "fresh"
            found[profile] = {"metrics": seen.metrics, "setting": seen.setting, "stale": seen.earlier, "held": held}
    return found


class Role(SphinxRole):
    """A role that quotes a chapter. ``draw`` makes the node, and raises ValueError for what does not exist."""

    def run(self) -> tuple[list[Node], list[system_message]]:
        slug = press.slug_of(self.env.docname)
        try:
            if slug is None:
                raise ValueError("it quotes a chapter, and this page is none")
            return [self.draw(slug, " ".join(self.text.split()))], []
        except ValueError as error:
            rebuild.note(self.env, "book_broken")
            message = self.inliner.reporter.error(f"{self.name}: {error}", line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, message)], [message]

    def draw(self, slug: str, text: str) -> Node:
        raise NotImplementedError


class MeasuredRole(Role):
    """``{measured}`accuracy/moon - accuracy/fedavg` ``: see :mod:`book.expressions`."""

    def draw(self, slug: str, text: str) -> Node:
        found = expressions.measured(text, evidence_of(slug), evidence.units(slug), SHOWN, evidence.scales(slug))
        return quote("", found.text, classes=["measured"], title=found.title)


class SettingRole(Role):
    """``{setting}`rounds` ``: a value of the run's setting."""

    def draw(self, slug: str, text: str) -> Node:
        found = expressions.setting(text, evidence_of(slug), SHOWN)
        return quote("", found.text, classes=["setting"], title=found.title)


class PublishedRole(Role):
    """``{published}`69.1 ± 0.4 % (Table 1)` ``: a number of the paper, as it stands there."""

    def draw(self, slug: str, text: str) -> Node:
        return quote("", text, classes=["published"], title="as the paper has it")


class VerdictRole(Role):
    """``{verdict}`claim` ``: what a claim came to on the best evidence, linked to its row of the ledger."""

    def draw(self, slug: str, text: str) -> Node:
        claims = {claim.id: claim for claim in press.card(slug).claims}
        if text not in claims:
            raise ValueError(f"papers/{slug}/paper.yml has no claim {text!r}; {expressions.like(text, claims)}")
        said = best.verdict(press.best(slug, claims[text]), self.env.docname)
        link = nodes.reference("", "", *elements.pieces(said), refid=ledger.anchor(slug, text), internal=True)
        link["classes"].append("verdict-link")
        return link


class MeasuresDirective(BookDirective):
    """``{measures}``, with a body in YAML: rows, columns, and if wanted against, profile, caption."""

    has_content = True

    def run(self) -> list[Node]:
        slug = press.slug_of(self.env.docname)
        if slug is None:
            raise self.error("measures shows a chapter's evidence; this page is not a chapter")
        try:
            table = quoting.measures("\n".join(self.content))
            known, units, judged = evidence_of(slug), evidence.units(slug), evidence.scales(slug)
            cells = quoting.amounts_of(table, known, units, SHOWN, judged)
        except ValueError as error:
            raise self.error(f"measures: {error}") from error
        if cells is None:
            return [elements.paragraph(expressions.NOT_RUN)]
        rows: list[list[elements.Cell]] = [
            [row, *(elements.stack(one.mean, elements.inline(one.difference, "source")) for one in found)]
            for row, found in cells.items()
        ]
        shown = elements.table(["", *table.columns], rows, [2] + [3] * len(table.columns), "measures")
        if table.caption:
            words, _ = self.parse_inline(table.caption, lineno=self.lineno)
            shown.insert(0, nodes.title("", "", *words))
        against = next((row for row, key in table.rows.items() if key == table.against), table.against)
        origin: list[elements.Cell] = [elements.inline(table.profile or SHOWN, "profile"), " means over the seeds"]
        origin += [f"; below them the paired difference to {against}, with its 95 % interval"] if table.against else []
        return [shown, elements.paragraph(origin, "origin")]


def translate(app: Sphinx, doctree: nodes.document) -> None:
    """Units and verdicts within folded Chinese text, in Chinese."""
    for folded in languages.folded(doctree):
        for found in list(folded.findall(quote)):
            say(found, quoting.in_chinese(found.astext()))
        for found in list(folded.findall(nodes.inline)):
            if "verdict" in found["classes"]:
                sign, _, word = found.astext().partition(" ")
                say(found, f"{sign} {languages.VERDICTS.get(word, word)}")
            elif "label-earlier" in found["classes"]:
                say(found, languages.say("earlier", languages.FOLDED))


def say(node: nodes.Element, words: str) -> None:
    """Let a node say something else."""
    node.clear()
    node += nodes.Text(words)


def visit_quote(self: Any, node: quote) -> None:
    self.body.append(self.starttag(node, "span", "", title=node["title"]))


def depart_quote(self: Any, node: quote) -> None:
    self.body.append("</span>")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(quote, html=(visit_quote, depart_quote))
    app.add_role("measured", MeasuredRole())
    app.add_role("setting", SettingRole())
    app.add_role("published", PublishedRole())
    app.add_role("verdict", VerdictRole())
    app.add_directive("measures", MeasuresDirective)
    app.connect("doctree-read", translate)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
