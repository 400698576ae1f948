"""The one table of symbols: read from the notation page, and linked to wherever a chapter uses one of them.

A row holds in all chapters, or in those that it names; these win. A chapter's first use of a symbol in each section
becomes a quiet link to its row, so that a preview can show what it means there. ``tests/site/test_notation.py`` reads
the same table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from book.site import press

PAGE = "book/pages/notation"
ROW = re.compile(r"^\| (?P<symbols>[^|]*\$[^|]*) \| (?P<meaning>.*?) \| (?P<last>.*?) ?\|$", re.MULTILINE)
MATH = re.compile(r"\$([^$]+)\$")
HEAD = re.compile(r"\s*(?:=|\\in\b|\\sim\b)")  # what comes before is the symbol


@dataclass(frozen=True)
class Row:
    """A row of the notation page. ``chapters``: the only ones that it is for; none means all of them."""

    symbols: tuple[str, ...]
    meaning: str
    chapters: tuple[str, ...]
    anchor: str
    kept: bool = False  # a paper's letter that means something else in the other chapters


def symbol(tex: str) -> str:
    """The symbol that a formula is about, in one spelling: what stands before its relation, without spaces."""
    braced = re.sub(r"(\\mathrm)\s+(\w)", r"\1{\2}", HEAD.split(tex, maxsplit=1)[0])
    return re.sub(r"\s+|\\,|\\;", "", braced)


def rows(text: str) -> list[Row]:
    """The rows of the notation page, from its source."""
    found: list[Row] = []
    kept_from = text.find("A few chapters keep a letter")
    for match in ROW.finditer(text):
        symbols = tuple(symbol(tex) for tex in MATH.findall(match["symbols"]))
        chapters = tuple(re.findall(r"papers/([\w-]+)/chapter", match["last"]))
        name = re.sub(r"[^A-Za-z0-9]+", "-", symbols[0]).strip("-")
        anchor = "-".join(["symbol", name, *chapters])
        kept = 0 <= kept_from < match.start()
        found.append(Row(symbols, match["meaning"], chapters, anchor, kept))
    return found


@cache
def _table(path: Path, stamp: int) -> list[Row]:
    return rows(path.read_text(encoding="utf-8"))


def table() -> list[Row]:
    """The rows of this book's notation page; none where there is no such page."""
    path = press.root() / f"{PAGE}.md"
    return _table(path, path.stat().st_mtime_ns) if path.is_file() else []


def known(slug: str, found: list[Row]) -> dict[str, Row]:
    """What each symbol means in a chapter: its own rows win over those for all."""
    shared = {s: row for row in found if not row.chapters for s in row.symbols}
    return shared | {s: row for row in found if slug in row.chapters for s in row.symbols}


def spoken(tex: str) -> str:
    """A symbol as one would type it into a search: ``alpha``, ``D_k``, ``w``."""
    return re.sub(r"\\(?:math(?:cal|bb|rm|bf)|operatorname|text|hat|tilde|bar)\*?|[{}\\\s]", "", tex)


class AnchorRows(SphinxTransform):
    """Give the meaning in each row of the notation page an address, and the symbols' names, for previews only.

    The names as they are typed are index entries, by which the search finds the row.
    """

    default_priority = 840  # before Sphinx collects index entries

    def apply(self, **kwargs: Any) -> None:
        if self.env.docname != PAGE:
            return
        waiting: dict[tuple[str, ...], list[Row]] = {}
        for row in table():
            waiting.setdefault(row.symbols, []).append(row)
        for line in self.document.findall(nodes.row):
            cells = [cell for cell in line.children if isinstance(cell, nodes.entry)]
            formulas = tuple(symbol(math.astext()) for math in cells[0].findall(nodes.math))
            if waiting.get(formulas) and (text := next(iter(cells[1].findall(nodes.paragraph)), None)):
                anchor = waiting[formulas].pop(0).anchor
                text["ids"].append(anchor)
                names = [copy for part in cells[0].findall(nodes.paragraph) for copy in part.deepcopy().children]
                text.insert(0, nodes.inline("", "", *names, nodes.Text(": "), classes=["symbol-names"]))
                entries = [("single", spoken(name), anchor, "main", None) for name in formulas if spoken(name)]
                text.insert(0, addnodes.index(entries=entries))


def link_symbols(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link each symbol's first use in a section of a chapter to its row."""
    slug = press.slug_of(page)
    if slug is None or PAGE not in app.env.found_docs:
        return
    meanings = known(slug, table())
    address = app.builder.get_relative_uri(page, PAGE)
    for section in [s for s in doctree.findall(nodes.section) if isinstance(s.parent, nodes.section)]:
        if isinstance(section.parent.parent, nodes.section):
            continue  # a subsection belongs to its section
        seen: set[str] = set()
        for math in list(section.findall(nodes.math)):
            name = symbol(math.astext())
            if name not in meanings or meanings[name].anchor in seen or not linkable(math):
                continue
            seen.add(meanings[name].anchor)
            link = nodes.reference("", "", refuri=f"{address}#{meanings[name].anchor}", classes=["symbol"])
            math.replace_self(link)
            link += math


def linkable(node: nodes.Node | None) -> bool:
    """Not in a title, nor in another link, nor a letter of the paper's own: ``[$x$]{.theirs}``."""
    while node is not None:
        if isinstance(node, nodes.title | nodes.reference):
            return False
        if isinstance(node, nodes.inline) and "theirs" in node["classes"]:
            return False
        node = node.parent
    return True


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(AnchorRows)
    app.connect("doctree-resolved", link_symbols)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
