"""The map of the book: which paper builds on which, drawn from the cards, as a picture and as a list.

The picture is an SVG in the page: its boxes are links, its colours are those of the page, and a box under the pointer
or with the focus shows its own lines. The list below it says the same to whoever does not see it.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx

from book.site import elements, press
from book.site.elements import Cell
from book.site.rebuild import BookDirective

COLUMNS, WIDE, HIGH, ACROSS, DOWN = 5, 176, 44, 24, 30  # boxes of a row; their size and the space between, in pixels
CAPTION = 26  # height of a part's name
LETTERS = 24  # of a line in a box


@dataclass(frozen=True)
class Box:
    """A chapter on the map: its short name, whether there is a page of it, and where the box lies."""

    slug: str
    name: str
    written: bool
    x: int
    y: int


def short(title: str) -> str:
    """What comes before the colon, or after it where that is a part's name, and before the first comma of a title."""
    head, _, tail = (piece.strip() for piece in title.partition(":"))
    return (tail if head in press.PARTS and tail else head).partition(",")[0]


def builds_on() -> dict[str, tuple[str, ...]]:
    """The papers that each written chapter names as what it builds on."""
    return {slug: tuple(press.card(slug).builds_on) for slug in press.slugs() if not press.card(slug).page}


def lay_out() -> tuple[dict[str, Box], list[tuple[str, int]], int]:
    """Boxes by slug, the parts' names with their heights, and the height of all: parts from top to bottom, and in each
    the chapters in the order of the notes; those that are not written yet, too.
    """
    written = builds_on()
    register = {entry.slug: entry for entry in press.entries()}
    boxes, captions, y = dict[str, Box](), list[tuple[str, int]](), 0
    for part in press.PARTS:
        slugs = [s for s in written if press.card(s).part == part and s not in register]
        slugs += [s for s, entry in register.items() if entry.part == part]
        if not slugs:
            continue
        captions.append((part, y + 17))
        y += CAPTION
        for place, slug in enumerate(slugs):
            row, column = divmod(place, COLUMNS)
            name = short(press.card(slug).title) if slug in written else slug
            spot = column * (WIDE + ACROSS), y + row * (HIGH + DOWN)
            boxes[slug] = Box(slug, name, slug in written, *spot)
        y += (1 + (len(slugs) - 1) // COLUMNS) * (HIGH + DOWN)
    return boxes, captions, y


def line(start: Box, end: Box) -> str:
    """The path of an arrow from a paper to one that builds on it."""
    x1, x2 = start.x + WIDE // 2, end.x + WIDE // 2
    if end.y > start.y:
        y1, y2 = start.y + HIGH, end.y - 4
        bend = max(18, (y2 - y1) // 2)
        return f"M{x1},{y1} C{x1},{y1 + bend} {x2},{y2 - bend} {x2},{y2}"
    y1, y2 = start.y, end.y - 4 if end.y == start.y else end.y + HIGH + 4
    lift = 22 if end.y == start.y else -18
    return f"M{x1},{y1} C{x1},{y1 - 22} {x2},{y2 - lift} {x2},{y2}"


def drawn(address: Any) -> str:
    """The map as SVG; ``address(slug)`` is where a chapter's page lies."""
    boxes, captions, height = lay_out()
    arrows = [(a, b) for b, bases in builds_on().items() for a in bases if a in boxes and b in boxes]
    width = COLUMNS * (WIDE + ACROSS) - ACROSS
    out = [
        f'<svg class="concept-map" viewBox="-4 0 {width + 8} {height}" role="group" '
        f'aria-label="Map of the chapters: {len(arrows)} arrows lead from a paper to one that builds on it">',
        '<defs><marker id="map-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
    ]
    shown = [f".concept-map:has(#map-{s}:hover, #map-{s}:focus-within) .at-{s}" for s in boxes]
    out.append(f"<style>{', '.join(shown)} {{ opacity: 1; stroke-width: 2.2; }}</style>")
    out += [
        f'<path class="arrow at-{a} at-{b}" d="{line(boxes[a], boxes[b])}" marker-end="url(#map-arrow)"/>'
        for a, b in arrows
    ]
    out += [f'<text class="part" x="0" y="{y}">{escape(part)}</text>' for part, y in captions]
    out += [_box(box, address(box.slug) if box.written else "") for box in boxes.values()]
    return "\n".join([*out, "</svg>"])


def _box(box: Box, target: str) -> str:
    lines = wrap(box.name, LETTERS)[:2]
    top = box.y + HIGH // 2 + 5 - 8 * (len(lines) - 1)
    text = "".join(
        f'<tspan x="{box.x + WIDE // 2}" y="{top + 16 * i}">{escape(part)}</tspan>' for i, part in enumerate(lines)
    )
    shape = f'<rect x="{box.x}" y="{box.y}" width="{WIDE}" height="{HIGH}" rx="8"/><text>{text}</text>'
    if target:
        return f'<a id="map-{box.slug}" class="box" href="{escape(target)}">{shape}</a>'
    return f'<g id="map-{box.slug}" class="box unwritten"><title>not yet written</title>{shape}</g>'


class ConceptMapDirective(BookDirective):
    """``{concept-map}``: the picture, and the same as a list."""

    def run(self) -> list[Node]:
        self.draws_press()
        here, builder = self.env.docname, self.env.app.builder

        def address(slug: str) -> str:
            return str(builder.get_relative_uri(here, press.document_of(slug)))

        frame = nodes.container(classes=["concept-map-frame"])
        frame += nodes.raw("", drawn(address), format="html")
        return [frame, nodes.bullet_list("", *self.items(), classes=["concept-map-list"])]

    def items(self) -> list[nodes.list_item]:
        """One line for each chapter that builds on another."""
        found = []
        for slug, bases in builds_on().items():
            if bases:
                line: list[Cell] = [self.link(slug), " builds on ", *elements.join([self.link(s) for s in bases]), "."]
                found.append(nodes.list_item("", elements.paragraph(line)))
        return found

    def link(self, slug: str) -> Cell:
        if slug not in builds_on():
            return slug
        return elements.page_link(short(press.card(slug).title), press.document_of(slug), self.env.docname)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("concept-map", ConceptMapDirective)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
