"""The page of the benchmark: its tables and figures, drawn from the file of results when the site is built."""

from __future__ import annotations

import base64
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx

from benchmarks import plots, results, tables
from benchmarks.errors import BenchmarkError
from book.site import elements, press
from book.site.rebuild import BookDirective

BARS = (
    "Median seconds of a round; black lines span the quartiles over rounds, and brackets say how many times as fast as "
    "the plain loop. Which workload is which stands in the tables below."
)


class BenchmarksDirective(BookDirective):
    """``{benchmarks}``: targets, seconds per round, scale-up; without results, how to get them."""

    def run(self) -> list[Node]:
        path = press.root() / "benchmarks" / "results.json"
        self.env.note_dependency(str(path))
        try:
            return drawn(results.read(path))
        except BenchmarkError as error:
            raise self.error(str(error)) from error


def drawn(found: results.Results) -> list[Node]:
    """What the page shows of these results."""
    if not found["workloads"] and "gpu" not in found:
        return [elements.paragraph(["Nothing has been measured yet. To measure:"]), elements.command(tables.HOW)]
    shown = [elements.paragraph([said])] if (said := tables.answer(found)) else []
    if bars := figure(plots.bars(found)):
        shown += [*bars, elements.paragraph(BARS, "source")]
    shown.append(table(tables.bounds(found)))
    for each in [*tables.workloads(found), *tables.gpu(found)]:
        shown.append(table(each))
        shown += [elements.paragraph(note, "source") for note in each.notes]
    return shown + figure(plots.scale(found))


def table(content: tables.Table) -> Node:
    """A table with its title as caption."""
    widths = [24, *[max(6, len(head)) for head in content.head[1:]]]
    return elements.table(content.head, content.rows, widths, caption=content.title)


def figure(made: tuple[Any, str] | None) -> list[Node]:
    """A figure, if there is one, as part of the page itself."""
    if made is None:
        return []
    fig, alt = made
    data = base64.b64encode(plots.svg(fig).encode()).decode()
    # An opaque white panel, which the theme need not dim on a dark page.
    return [nodes.image("", uri=f"data:image/svg+xml;base64,{data}", alt=alt, classes=["dark-light"])]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("benchmarks", BenchmarksDirective)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
