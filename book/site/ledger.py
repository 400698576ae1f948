"""The ledger of claims: what the paper says, what was measured at each profile, and the verdict, side by side."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx

from book.site import best, elements, press
from book.site.elements import Cell
from book.site.rebuild import BookDirective


class ClaimsDirective(BookDirective):
    """``{claims}``: the ledger of this chapter; ``{claims} all``: of every one; ``{claims} summary``: totals only."""

    optional_arguments = 1

    def run(self) -> list[Node]:
        self.draws_press()
        scope = self.arguments[0] if self.arguments else ""
        if scope == "summary":
            return summary(self.env.docname)
        if scope == "all":
            found: list[Node] = []
            for slug in press.slugs():
                card = press.card(slug)
                if card.claims:
                    title = elements.page_link(card.title, press.document_of(slug), self.env.docname)
                    found += [nodes.rubric("", "", title), ledger(slug), *earlier(slug), *explanations(slug)]
            return found or [elements.paragraph("No chapter has claims yet.")]
        here = press.slug_of(self.env.docname)
        if here is None or scope:
            raise self.error(
                f"claims: got {scope!r} on page {self.env.docname}; expected nothing (in a chapter), 'all' or 'summary'"
            )
        if not press.card(here).claims:
            return [elements.paragraph("This chapter makes no claims yet.")]
        return [ledger(here), *earlier(here), *explanations(here)]


def ledger(slug: str) -> nodes.table:
    """One row per claim, one column per profile, the best evidence first."""
    claims = press.card(slug).claims
    profiles = press.measured_first((p for claim in claims for p in claim.profiles), slug)
    rows = [
        [
            elements.stack(claim.statement, elements.inline(claim.source, "source")),
            elements.stack(narrow_label("The paper"), claim.paper or "–"),
            *[measured_cell(slug, claim, profile) for profile in profiles],
        ]
        for claim in claims
    ]
    widths = [34, 18] + [16] * len(profiles)
    table = elements.table(["Claim", "The paper", *map(str.capitalize, profiles)], rows, widths, "ledger")
    for row, claim in zip(list(table.findall(nodes.row))[1:], claims, strict=True):
        row["ids"].append(anchor(slug, claim.id))
    return table


def anchor(slug: str, claim: str) -> str:
    """The address of a claim's row within the page that shows the ledger."""
    return f"claim-{slug}-{claim}"


def measured_cell(slug: str, claim: Any, profile: str) -> Cell:
    """Verdict, mean and interval of one claim at one profile."""
    seen = press.verdict_of(slug, claim, profile)
    label = narrow_label(profile.capitalize())
    if not seen.applies:
        return elements.stack(label, elements.inline("not claimed", "source"))
    if seen.value is None:
        return elements.stack(label, elements.badge(seen.verdict), elements.inline(seen.problem, "source"))
    difference = bool(claim.against)
    return elements.stack(
        label,
        elements.badge(seen.verdict),
        elements.quantity(seen.value, claim.unit, difference),
        elements.inline(elements.span(seen.low, seen.high, claim.unit), "source"),
    )


def earlier(slug: str) -> list[Node]:
    """Under a ledger: the profiles whose column was measured with code that has changed since, and its commit."""
    found = [(profile, press.measured(slug, profile)) for profile in press.BEST_FIRST]
    old = [
        [elements.inline(profile, "profile"), elements.label(f"measured with earlier code ({one.commit})", "earlier")]
        for profile, one in found
        if one and one.earlier
    ]
    return [elements.paragraph(elements.join(old, " · "), "origin")] if old else []


def narrow_label(text: str) -> Cell:
    """The column's name inside its cell: shown on a phone, where a row of the ledger is stacked and has no columns."""
    return elements.inline(text, "narrow-label")


def explanations(slug: str) -> list[Node]:
    """What the author has to say on claims that do not hold."""
    told = []
    for claim in press.card(slug).claims:
        verdicts = {press.verdict_of(slug, claim, p).verdict for p in claim.profiles}
        if claim.explanation and verdicts - {"holds", "not run"}:
            text: Cell = [nodes.strong("", claim.statement), " ", claim.explanation]
            told.append(nodes.list_item("", elements.paragraph(text)))
    if not told:
        return []
    return [elements.paragraph("On the claims that do not hold everywhere:"), nodes.bullet_list("", *told)]


def summary(page: str) -> list[Node]:
    """How many claims came to which verdict on the best evidence, and profile by profile, over the whole book."""
    found = press.best_of(*press.slugs())
    if not found:
        return [elements.paragraph("No claims have been written down yet.")]
    counts = {"best": press.count(one.verdict.verdict for one in found)}
    counts |= {profile: press.totals(profile) for profile in press.BEST_FIRST}
    used = [column for column, count in counts.items() if sum(count.values()) > count["not run"] or column == "best"]
    used += [column for column, count in counts.items() if column not in used and any(count.values())]
    rows: list[list[Cell]] = [[elements.badge(v), *[str(counts[p][v]) for p in used]] for v in press.VERDICTS]
    rows.append([nodes.strong("", "claims"), *[nodes.strong("", str(sum(counts[p].values()))) for p in used]])
    head: list[Cell] = ["Verdict", *[elements.inline(p, "profile") for p in used]]
    table = elements.table(head, rows, [40] + [20] * len(used), "summary")
    return [table, elements.paragraph(best.origin(found, page), "origin")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claims", ClaimsDirective)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
