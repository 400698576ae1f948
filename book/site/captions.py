"""Captions: a numbered figure of a code cell's picture, links to it, and the same picture on the first screen.

``{caption} label`` stands right after the cell. Figures are numbered in the order of the page. Once a page has a
caption, a cell whose picture has none gives a warning.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.util import logging

from book import expressions
from book.site import elements, languages, press, quotes, rebuild
from book.site.rebuild import BookDirective

LOG = logging.getLogger(__name__)
PICTURES = ("image/svg+xml", "image/png", "image/jpeg", "image/gif")  # as the site prefers them
SILENT = nodes.Invisible  # comments and targets between a cell and its caption


class cell_figure(nodes.General, nodes.Element):
    """Pictures with their caption; before the page is read to its end, the place of one, with its ``label``."""


class figure_caption(nodes.General, nodes.Element):
    """What a caption says."""


class CaptionDirective(BookDirective):
    """``{caption} label``: what is to be seen on the picture of the cell before; the body is Markdown."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[Node]:
        self.assert_has_content()
        said = figure_caption()
        self.set_source_info(said)
        self.state.nested_parse(self.content, self.content_offset, said)
        label = self.arguments[0]
        place = cell_figure("", said, label=label, ids=[anchor(label)], classes=["captioned"])
        self.set_source_info(place)
        return [place]


class LeadDirective(BookDirective):
    """``{lead} label``: the picture of that caption, a first time; nothing where there is none yet."""

    required_arguments = 1

    def run(self) -> list[Node]:
        place = cell_figure("", label=self.arguments[0], classes=["lead-picture"])
        self.set_source_info(place)
        return [place]


class FigureRole(quotes.Role):
    """``{figure-ref}`label` ``: a link to a figure, by its number."""

    def draw(self, slug: str, text: str) -> Node:
        link = nodes.inline("", text, classes=["figure-ref"], label=text)
        link.line = self.lineno
        return link


def anchor(label: str) -> str:
    return f"figure-{nodes.make_id(label)}"


def number(app: Sphinx, doctree: nodes.document) -> None:
    """Put the pictures of each cell into the figure after it, and resolve what names a figure."""
    placed = [node for node in doctree.findall(cell_figure) if "captioned" in node["classes"]]
    labels = [node["label"] for node in placed]
    fresh = press.state(press.slug_of(app.env.docname) or "").kind == "fresh" if placed else True

    def warn(node: nodes.Element, text: str) -> None:
        rebuild.note(app.env, "book_broken")
        LOG.warning("%s", text, location=(app.env.docname, node.line), type="book", subtype="caption")

    for place, node in enumerate(placed, start=1):
        if labels.index(node["label"]) + 1 < place:
            warn(node, f"caption {node['label']!r}: two figures have this label")
        cell = cell_before(node)
        found = bundles(cell) if cell is not None else []
        said = elements.inline(f"Figure {place}. ", "figure-number")
        if cell is None or (fresh and not found):
            fault = "stands after no code cell" if cell is None else "the cell before it has no picture"
            warn(node, f"caption {node['label']!r}: {fault}")
        elif not found:
            said += nodes.Text(f"{expressions.NOT_RUN} ")
        begin(node[-1], said)
        if found:
            move(node, found)
    if placed:
        for cell in doctree.findall(is_cell):
            if any(not inside_figure(bundle) for bundle in bundles(cell)):
                warn(cell, "this cell's picture has no caption, and others on the page have: add {caption} after it")
    refer(doctree, placed, labels, warn)


def refer(doctree: nodes.document, placed: list[cell_figure], labels: list[str], warn: Any) -> None:
    """Links and first pictures."""
    chinese = {id(node) for box in languages.folded(doctree) for node in box.findall(nodes.inline)}
    for link in [node for node in doctree.findall(nodes.inline) if "figure-ref" in node["classes"]]:
        if link["label"] not in labels:
            warn(link, f"no caption {link['label']!r} on this page; {expressions.like(link['label'], labels)}")
            continue
        words = f"{'图' if id(link) in chinese else 'Figure'} {labels.index(link['label']) + 1}"
        link.replace_self(nodes.reference("", words, refid=anchor(link["label"]), internal=True))
    for lead in [node for node in doctree.findall(cell_figure) if "lead-picture" in node["classes"]]:
        if lead["label"] not in labels:
            warn(lead, f"no caption {lead['label']!r} on this page; {expressions.like(lead['label'], labels)}")
            lead.parent.remove(lead)
            continue
        shown = placed[labels.index(lead["label"])]
        picture = first_picture(shown)
        if picture is None:
            lead.parent.remove(lead)
            continue
        where = nodes.reference("", "how it was measured", refid=shown["ids"][0], internal=True)
        said = elements.paragraph([*words_of(shown[-1]), " ", where])
        lead += [copy(picture), figure_caption("", said)]


def is_cell(node: Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def cell_before(node: nodes.Element) -> nodes.Element | None:
    """The code cell that a caption follows."""
    place = node.parent.index(node)
    before = next((part for part in reversed(node.parent[:place]) if not silent(part)), None)
    return before if before is not None and is_cell(before) else None


def silent(node: Node) -> bool:
    """Whether a node between a cell and its caption counts for nothing: a comment, a target, what a cell implements."""
    return isinstance(node, SILENT) or "cell-origin" in getattr(node, "attributes", {}).get("classes", ())


def bundles(cell: nodes.Element) -> list[nodes.container]:
    """The outputs of a cell that have a picture."""
    outputs = [node for node in cell.findall(nodes.container) if node.get("nb_element") == "mime_bundle"]
    return [output for output in outputs if any(kind.get("mime_type") in PICTURES for kind in output)]


def inside_figure(node: Node) -> bool:
    return isinstance(node.parent, cell_figure)


def move(place: cell_figure, pictures: list[nodes.container]) -> None:
    """Put a figure where the first of its pictures stands, with all of them in it."""
    place.parent.remove(place)
    home = pictures[0].parent
    home.insert(home.index(pictures[0]), place)
    for at, picture in enumerate(pictures):
        picture.parent.remove(picture)
        place.insert(at, picture)


def begin(caption: nodes.Element, words: Node) -> None:
    """Let a caption begin with ``words``."""
    if not caption.children or not isinstance(caption[0], nodes.paragraph):
        caption.insert(0, nodes.paragraph())
    caption[0].insert(0, words)


def first_picture(shown: cell_figure) -> nodes.image | None:
    """The picture of a figure that the site would show, of several kinds of the same output."""
    for bundle in shown.findall(nodes.container):
        kinds = {kind.get("mime_type"): kind for kind in bundle if isinstance(kind, nodes.container)}
        for kind in PICTURES:
            if kind in kinds:
                return next(kinds[kind].findall(nodes.image), None)
    return None


def words_of(caption: nodes.Element) -> list[Node]:
    """The first paragraph of a caption, without its number."""
    return [copy(part) for part in caption[0][1:]]


def copy(node: Any) -> Any:
    """A copy without anchors, which a page may have once only."""
    made = node.deepcopy()
    for part in made.findall(nodes.Element):
        part["ids"] = []
    return made


def written_as(tag: str) -> tuple[Any, Any]:
    """How a node becomes an element of HTML."""
    return (
        lambda self, node: self.body.append(self.starttag(node, tag)),
        lambda self, node: self.body.append(f"</{tag}>\n"),
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(cell_figure, html=written_as("figure"))
    app.add_node(figure_caption, html=written_as("figcaption"))
    app.add_directive("caption", CaptionDirective)
    app.add_directive("lead", LeadDirective)
    app.add_role("figure-ref", FigureRole())
    app.connect("doctree-read", number, priority=550)  # the images have their alternative texts by now
    return {"parallel_read_safe": False, "parallel_write_safe": True}
