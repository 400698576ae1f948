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
                    found += [nodes.rubric("", "", title), ledger(slug), *below(slug)]
            return found or [elements.paragraph("No chapter has claims yet.")]
        here = press.slug_of(self.env.docname)
        if here is None or scope:
            raise self.error(
                f"claims: got {scope!r} on page {self.env.docname}; expected nothing (in a chapter), 'all' or 'summary'"
            )
        if not press.card(here).claims:
            return [elements.paragraph("This chapter makes no claims yet.")]
        return [ledger(here), *below(here)]


def ledger(slug: str) -> nodes.table:
    """One row per claim, one column per profile, the best evidence first."""
    claims = press.card(slug).claims
    profiles = press.measured_first((p for claim in claims for p in claim.profiles), slug)
    rows = [
        [
            elements.stack(claim.statement, elements.inline(f"{claim.kind} · {claim.source}", "source")),
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
    """Verdict, mean and interval of one claim at one profile; the room it had, or how many seeds would settle it."""
    seen = press.verdict_of(slug, claim, profile)
    label = narrow_label(profile.capitalize())
    if not seen.applies:
        return elements.stack(label, elements.inline("not claimed", "source"))
    if seen.value is None:
        return elements.stack(label, elements.badge(seen.verdict), elements.inline(seen.problem, "source"))
    room = f"room: {best.size(seen.room, claim)}" if seen.room is not None else ""
    return elements.stack(
        label,
        elements.badge(seen.verdict),
        best.size(seen.value, claim),
        elements.inline(elements.span(seen.low, seen.high, best.unit(claim)), "source"),
        elements.inline(best.seeds(seen) or room, "source"),
    )


def below(slug: str) -> list[Node]:
    """Under a ledger: how its verdicts are corrected, which evidence is old, and what the author has to say."""
    kinds = [claim.kind for claim in press.card(slug).claims]
    said = ["Intervals are plain 95% ones."]
    if "identity" in kinds:
        said.append("Those of identities are the span of all seeds.")
    if (primary := kinds.count("primary")) > 1:
        said.append(f"The {primary} primary claims are judged together (Holm); the others are not corrected.")
    else:
        said.append("The verdicts are not corrected for their number.")
    return [elements.paragraph(" ".join(said), "origin"), *earlier(slug), *explanations(slug)]


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
    """How many claims of each kind came to which verdict on the best evidence, over the whole book."""
    found = {kind: press.best_of(*press.slugs(), kinds=(kind,)) for kind in press.KINDS}
    everything = [one for some in found.values() for one in some]
    if not everything:
        return [elements.paragraph("No claims have been written down yet.")]
    used = {kind: press.count(one.verdict.verdict for one in some) for kind, some in found.items() if some}
    rows: list[list[Cell]] = [[elements.badge(v), *[str(used[k][v]) for k in used]] for v in press.VERDICTS]
    rows.append([nodes.strong("", "claims"), *[nodes.strong("", str(sum(used[k].values()))) for k in used]])
    table = elements.table(["Verdict", *used], rows, [40] + [20] * len(used), "summary")
    said = " ".join(filter(None, [best.expect(found["primary"], page), best.origin(everything, page)]))
    return [table, elements.paragraph(said, "origin")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claims", ClaimsDirective)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
