"""Tables of committed evidence: the metrics of one profile, with interval and seeds."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx

from book import expressions
from book.site import card, elements, press
from book.site.rebuild import BookDirective

MOST = 8  # rows that a page shows unfolded


class EvidenceDirective(BookDirective):
    """``{evidence} real``: this chapter's committed metrics at a profile; ``:metrics:`` picks by pattern."""

    required_arguments = 1
    option_spec = {"metrics": directives.unchanged_required}

    def run(self) -> list[Node]:
        slug, profile = press.slug_of(self.env.docname), self.arguments[0]
        if slug is None:
            raise self.error("evidence is shown in papers/<slug>/chapter.md; this page is not a chapter")
        try:
            table, *rest = shown(slug, profile, self.options.get("metrics", "*"))
        except ValueError as problem:
            raise self.error(str(problem)) from None
        folded = fold(table, slug) if isinstance(table, nodes.table) else None
        return [table, *rest] if folded is None else [folded, *self.details(table), *rest]

    def details(self, table: nodes.table) -> list[Node]:
        """The whole table behind a line that folds out."""
        frame = nodes.container()
        title = f"All {len(rows_of(table))} metrics"
        lines = StringList([f"````{{dropdown}} {title}", "place", "````"], self.env.docname)
        self.state.nested_parse(lines, self.content_offset, frame)
        next(node for node in frame.findall(nodes.paragraph) if node.astext() == "place").replace_self(table)
        return list(frame.children)


def rows_of(table: nodes.table) -> list[nodes.row]:
    """The rows below the head."""
    return list(next(iter(table.findall(nodes.tbody))).children)


def fold(table: nodes.table, slug: str) -> nodes.table | None:
    """The rows that a page shows of a long table: those of metrics that claims judge first; None for a short one."""
    if len(rows_of(table)) <= MOST:
        return None
    judged = {name for claim in press.card(slug).claims for name in (claim.metric, claim.against)}
    short = table.deepcopy()
    body = next(iter(short.findall(nodes.tbody)))
    first = sorted(body.children, key=lambda row: next(iter(row.findall(nodes.literal))).astext() not in judged)
    body.children = first[:MOST]
    return short


def shown(slug: str, profile: str, wanted: str) -> list[Node]:
    """A table of the metrics that match one of the patterns ``wanted``. Raises ValueError where none does."""
    if profile not in press.PROFILES:
        raise ValueError(f"unknown profile {profile!r}: expected one of {', '.join(press.PROFILES)}")
    found = press.measured(slug, profile)
    if found is None:
        return not_run(slug, profile)
    patterns = wanted.replace(",", " ").split()
    chosen = [name for name in found.metrics if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(
            f"no metric of {slug} at the {profile} profile matches {' '.join(patterns)!r}; "
            f"{expressions.like(patterns[0], found.metrics)}"
        )
    judged = scales(slug)
    rows = [metric_row(name, found.metrics[name], unit_of(slug, name), judged.get(name)) for name in chosen]
    table = elements.table(["Metric", "Mean", "95% interval", "Seeds"], rows, [40, 18, 28, 14], "evidence")
    origin = [elements.inline(profile, "profile"), " ", card.provenance(found.provenance)]
    if found.earlier:
        origin += [" ", elements.label(f"measured with earlier code ({found.commit})", "earlier")]
    if found.unknown:
        origin += [" ", elements.label(f"on unknown data ({found.unknown})", "earlier")]
    return [table, elements.paragraph(origin, "origin")]


def unit_of(slug: str, metric: str) -> str:
    """The unit that the card gives a metric, by its name, its family or a claim; else what its name says."""
    return expressions.unit_of(metric, units(slug))


def units(slug: str) -> dict[str, str]:
    """Units by metric or family, by the card of a chapter."""
    card = press.card(slug)
    claimed = [(metric, claim.unit) for claim in card.claims for metric in (claim.metric, claim.against)]
    return expressions.all_units(card.units, claimed)


def scales(slug: str) -> dict[str, str]:
    """The scales on which the claims of a chapter judge single metrics: there is one number for one quantity."""
    return expressions.scales_of((claim.metric, claim.against, claim.scale) for claim in press.card(slug).claims)


def metric_row(name: str, metric: dict[str, Any], unit: str, scale: str | None = None) -> list[elements.Cell]:
    """One metric: name, mean and interval on the scale of its claim, number of seeds."""
    seen = expressions.averaged(name, list(metric["values"].values()), unit, scale)
    low, high = (seen.low, seen.high) if seen.n > 1 else (None, None)
    return [
        elements.code(name),
        elements.quantity(seen.mean, unit),
        elements.span(low, high, unit, beside=seen.mean),
        str(seen.n),
    ]


def not_run(slug: str, profile: str) -> list[Node]:
    """Said plainly where a profile was never run, with the command that would."""
    needs = press.needs(slug, profile)
    gpu = " It wants a GPU." if needs and needs.gpu else ""
    said = elements.paragraph([elements.badge("not run"), f" No evidence at the {profile} profile.{gpu} To run it:"])
    return [said, elements.command(f'make run P={slug} ARGS="--profile {profile}"')]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("evidence", EvidenceDirective)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
