"""Small builders of document nodes: text, badges, links, tables, definition lists, commands.

Directives compose these instead of writing HTML, so the same tree serves every builder and links are checked by Sphinx.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from docutils import nodes
from sphinx import addnodes

from book.amounts import number as number, quantity as quantity, span as span

Cell: TypeAlias = "nodes.Node | str | Sequence[Cell]"

# A sign beside the word: a verdict must be readable without colour.
SIGNS = {
    "holds": "✓",
    "smaller": "<",
    "direction only": "↗",
    "no effect": "≈",
    "opposite": "✗",
    "open": "?",
    "no room": "□",
    "not run": "–",
}


def inline(content: Cell, *classes: str) -> nodes.inline:
    """Text or nodes in a span with the given CSS classes."""
    return nodes.inline("", "", *pieces(content), classes=list(classes))


def pieces(content: Cell) -> list[nodes.Node]:
    """``content`` as a list of inline nodes; strings become text."""
    if isinstance(content, str):
        return [nodes.Text(content)]
    if isinstance(content, nodes.Node):
        return [content]
    return [node for part in content for node in pieces(part)]


def paragraph(content: Cell, *classes: str) -> nodes.paragraph:
    return nodes.paragraph("", "", *pieces(content), classes=list(classes))


def code(text: str) -> nodes.literal:
    return nodes.literal("", text)


def link(text: Cell, address: str) -> nodes.reference:
    """A link out of the site."""
    return nodes.reference("", "", *pieces(text), refuri=address, internal=False)


def page_link(text: Cell, document: str, source: str) -> nodes.Node:
    """A link to another page (``document`` is its name from the root, without suffix), or its text where there is none.

    A draft that the table of contents lacks has no page.
    """
    return addnodes.pending_xref(
        "",
        nodes.inline("", "", *pieces(text)),
        refdoc=source,
        refdomain="std",
        reftype="doc",
        reftarget="/" + document,
        refexplicit=True,
        refwarn=False,
    )


def badge(verdict: str, words: str | None = None) -> nodes.inline:
    """A verdict as sign and word, or ``words`` for it; the colour comes from the style sheet."""
    if verdict not in SIGNS:
        raise ValueError(f"unknown verdict {verdict!r}: expected one of {', '.join(SIGNS)}")
    return inline(f"{SIGNS[verdict]} {words or verdict}", "verdict", "verdict-" + verdict.replace(" ", "-"))


def label(text: str, kind: str) -> nodes.inline:
    """A quiet label, such as *not yet written*; ``kind`` names its colour."""
    return inline(text, "label", "label-" + kind)


def table(
    head: Sequence[Cell], rows: Iterable[Sequence[Cell]], widths: Sequence[int], *classes: str, caption: str = ""
) -> nodes.table:
    """A table of inline cells. ``widths`` are relative column widths."""
    frame = nodes.table(classes=["book-table", *classes])
    if caption:
        frame += nodes.title(text=caption)
    group = nodes.tgroup(cols=len(head))
    frame += group
    group += [nodes.colspec(colwidth=width) for width in widths]
    top, body = nodes.thead(), nodes.tbody()
    group += [top, body]
    top += _row(head)
    body += [_row(row) for row in rows]
    return frame


def _row(cells: Sequence[Cell]) -> nodes.row:
    entries = [cell if isinstance(cell, nodes.entry) else nodes.entry("", paragraph(cell)) for cell in cells]
    return nodes.row("", *entries)


def tall(cell: Cell, rows: int) -> nodes.entry:
    """A cell that reaches down over several rows; the rows below leave it out."""
    return nodes.entry("", paragraph(cell), morerows=rows - 1)


def stack(*lines: Cell) -> nodes.inline:
    """Several lines in one cell; each becomes a block."""
    return inline([inline(line, "line") for line in lines if line], "stack")


def definitions(rows: Iterable[tuple[str, Cell | nodes.Element]], *classes: str) -> nodes.field_list:
    """Names and values, rendered as a definition list."""
    fields = nodes.field_list(classes=list(classes))
    for name, value in rows:
        body = value if isinstance(value, nodes.Body) and not isinstance(value, nodes.Inline) else paragraph(value)
        fields += nodes.field("", nodes.field_name("", name), nodes.field_body("", body))
    return fields


def command(text: str) -> nodes.literal_block:
    """Shell commands with a copy button."""
    return nodes.literal_block(text, text, language="bash", classes=["command"])


def join(parts: Iterable[Cell], between: str = ", ") -> list[nodes.Node]:
    """Inline pieces with ``between`` set between them."""
    result: list[nodes.Node] = []
    for part in parts:
        if result:
            result.append(nodes.Text(between))
        result += pieces(part)
    return result
