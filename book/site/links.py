"""Links from a page to the source pages (``library.py``), remembered so that these can link back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from book.site import elements
from book.site.elements import Cell
from book.site.source import Source


@dataclass(frozen=True)
class Mention:
    """A page names a definition of a file: there, at ``target``, it shows it, or has an equation that it implements."""

    path: str
    anchor: str  # empty: the file as a whole
    page: str
    target: str
    equation: str = ""  # its number


def source_link(text: Cell, source: Source | Path, page: str) -> nodes.Node:
    """A link from ``page`` to a definition on its source page, or to the page of a whole file."""
    path, anchor = (source, "") if isinstance(source, Path) else (source.path, source.anchor)
    inner = text if isinstance(text, nodes.literal) else elements.inline(text)
    return addnodes.pending_xref(
        "",
        inner,
        refdoc=page,
        refdomain="",
        reftype="book-source",
        reftarget=page_of(path),
        refid=anchor,
        refwarn=False,
    )


def page_of(path: Path | str) -> str:
    """Name of a file's source page: the file's own path, so that addresses are those of the repository."""
    bare = Path(path).with_suffix("")
    return (bare.parent / "index" if bare.name == "__init__" else bare).as_posix()


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, inner: nodes.Node) -> nodes.Node | None:
    """Turn a link to a source page into an address; a builder without such pages keeps the text."""
    if node["reftype"] != "book-source":
        return None
    if app.builder.format != "html":
        return inner
    address = app.builder.get_relative_uri(node["refdoc"], node["reftarget"])
    if node["refid"]:
        address += "#" + node["refid"]
    return nodes.reference("", "", inner, refuri=address, internal=True)


def remember(env: Any, mention: Mention) -> None:
    """Note for the source pages that a page names a definition."""
    if not hasattr(env, "book_mentions"):
        env.book_mentions = {}
    env.book_mentions.setdefault(mention.page, []).append(mention)


def mentions(env: Any) -> Iterator[Mention]:
    """All that is named anywhere in the book, by page."""
    remembered: dict[str, list[Mention]] = getattr(env, "book_mentions", {})
    for page in sorted(remembered, key=lambda page: page.split("/")):  # feddf before feddf-experiments
        yield from dict.fromkeys(remembered[page])


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    getattr(env, "book_mentions", {}).pop(page, None)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("missing-reference", resolve)
    app.connect("env-purge-doc", forget)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
