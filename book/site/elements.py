"""Small builders of document nodes: text, badges, links, tables, definition lists, commands.

Directives compose these instead of writing HTML, so the same tree serves every builder and links are checked by Sphinx.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from docutils import nodes
from sphinx import addnodes

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

    A chapter that the table of contents lacks has no page; ``rebuild.py`` says so, once.
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


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: three significant digits, no exponent where it can be avoided, a true minus sign."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if value == int(value) and size < 1e6:
        text = f"{int(value):,}"
    elif 1e-3 <= size < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        text = f"{value:,.{decimals}f}"
    else:
        text = f"{value:.{digits - 1}e}"
    return text.replace("-", "−").replace(",", "\u2009")


def quantity(value: float | None, unit: str, difference: bool = False) -> str:
    """A value in the unit of its metric. ``accuracy`` is shown in percent, its differences in points."""
    if value is None:
        return "–"
    sign = "+" if difference and value > 0 else ""
    if unit == "accuracy" and math.isfinite(value):
        return f"{sign}{100 * value:.1f}".replace("-", "−") + (" points" if difference else "%")
    if unit == "bytes" and math.isfinite(value):
        for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
            if abs(value) >= size:
                return f"{sign}{number(value / size)} {name}"
        return f"{sign}{number(value)} B"
    return f"{sign}{number(value)}" + ("" if unit in ("", "ratio", "fraction", "accuracy") else f" {unit}")


def span(low: float | None, high: float | None, unit: str) -> str:
    """An interval in the scale of :func:`quantity`; the unit is not repeated."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "no interval (one seed)"
    if unit == "accuracy":
        return f"[{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")
    return f"[{number(low)}, {number(high)}]"
