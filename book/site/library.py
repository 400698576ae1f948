"""The source of the library, and of the tests that the book names: a page per file, an anchor per definition.

As `sphinx.ext.viewcode` does it, which needs objects documented by autodoc and imports what it shows. These pages are
made from the files alone, stand in no table of contents, and link back to the chapters that name a definition.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder

from book.site import elements, links, press, source
from book.site.elements import Cell
from book.site.links import Mention
from book.site.rebuild import BookDirective

PACKAGE = "fedlib"
INDEX = "book/pages/library"
Named = dict[str, list[Mention]]  # of one file, by anchor


@dataclass
class Definition:
    """A function, class or value, with the lines from its first decorator to its end."""

    anchor: str
    first: int
    last: int
    inside: list[Definition] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.anchor.rpartition(".")[2]


@dataclass(frozen=True)
class File:
    """A Python file that has a page."""

    path: Path  # from the root

    @property
    def page(self) -> str:
        return links.page_of(self.path)

    @property
    def module(self) -> str:
        """Its dotted name; a test has none, and goes by its path."""
        if self.path.parts[0] != PACKAGE:
            return self.path.as_posix()
        return ".".join(self.path.with_suffix("").parts).removesuffix(".__init__")

    @property
    def text(self) -> str:
        return (press.root() / self.path).read_text(encoding="utf-8")

    @property
    def summary(self) -> str:
        """The first sentence of its docstring, which may run on over a few lines."""
        lines = (ast.get_docstring(ast.parse(self.text)) or "").partition("\n\n")[0].splitlines()
        ends = next((n for n, line in enumerate(lines, 1) if line.endswith(".")), len(lines))
        return " ".join(lines[:ends])

    def definitions(self, named: set[str]) -> list[Definition]:
        """Its functions and classes, in order, and those of its values that are named somewhere in the book."""
        return in_order(definitions(ast.parse(self.text).body, "", named))


def in_order(found: Iterator[Definition]) -> list[Definition]:
    """By line. Of definitions that share one (`a = b = 1`) the first stands for all."""
    kept: list[Definition] = []
    for part in sorted(found, key=lambda part: part.first):
        if not kept or part.first > kept[-1].last:
            kept.append(part)
    return kept


def definitions(body: list[ast.stmt], prefix: str, named: set[str]) -> Iterator[Definition]:
    for name, node in source.names(body).items():
        whole = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if not whole and prefix + name not in named:
            continue
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        found = Definition(prefix + name, first, node.end_lineno or node.lineno)
        if isinstance(node, ast.ClassDef):
            found.inside = in_order(definitions(node.body, f"{prefix}{name}.", named))
        yield found


def library() -> list[File]:
    """Every file of the library; a package stands before what is in it."""
    paths = (press.root() / PACKAGE).rglob("*.py")
    return sorted((File(p.relative_to(press.root())) for p in paths), key=lambda file: file.module)


def all_named(app: Sphinx) -> dict[str, Named]:
    """What the pages of the book name, by file and anchor."""
    found: dict[str, Named] = defaultdict(lambda: defaultdict(list))
    for mention in links.mentions(app.env):
        found[mention.path][mention.anchor].append(mention)
    return found


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The source pages, for Sphinx to write."""
    if app.builder.format != "html":
        return
    named = all_named(app)
    tests = [File(Path(path)) for path in sorted(named) if Path(path).parts[0] == "tests"]
    for file in [*library(), *tests]:
        parts = file.definitions(set(named[str(file.path)]))
        writer = Writer(app, file, named[str(file.path)])
        context = {"title": file.module, "body": writer.body(parts), "toc": contents(file, parts)}
        yield file.page, context | {"metatags": writer.description()}, "page.html"


class Writer:
    """Writes one source page."""

    def __init__(self, app: Sphinx, file: File, named: Named):
        self.app, self.file, self.named = app, file, named
        self.text = file.text.splitlines()
        assert isinstance(app.builder, StandaloneHTMLBuilder)  # nobody else asks for pages
        marked = app.builder.highlighter.highlight_block(file.text, "python")
        self.lines = marked.partition("<pre>")[2].rpartition("</pre>")[0].splitlines()

    def body(self, parts: list[Definition]) -> str:
        """The whole page: where it comes from, who names it, and its lines."""
        title = re.sub(r"([./])(?=\w)", r"<wbr>\1", escape(self.file.module))
        head = f"<h1>{title}</h1>\n"
        whole = self.back(self.named.get("", []))
        return f"{head}{self.origin()}{whole}<div class='source-page'>{self.block(1, len(self.text), parts)}</div>"

    def origin(self) -> str:
        """Links to the list of modules, and to the file in the repository at the commit of this build."""
        commit, changed = press.checkout()
        path = self.file.path.as_posix()
        if commit and path not in changed:
            address, when = source.address(self.app.config, path, commit), f"at commit {commit[:7]}"
        else:
            address = source.address(self.app.config, path)
            when = "with changes that are not committed yet" if commit else ""
        parts = [
            f'<a class="reference external" href="{escape(address)}"><code>{escape(path)}</code></a> {when}'.strip(),
            f'<a class="reference internal" href="{self.to(INDEX)}">The library</a>',
        ]
        return f'<p class="origin">{" · ".join(parts)}</p>\n'

    def description(self) -> str:
        text = f"Source of {self.file.module}. {self.file.summary}".strip()
        return f'<meta name="description" content="{escape(text, quote=True)}" />\n'

    def block(self, first: int, last: int, inside: list[Definition]) -> str:
        """Lines ``first`` to ``last``; each definition among them in a box of its own that can be linked to."""
        done = []
        for part in inside:
            done.append(self.listing(first, part.first - 1))
            whole = self.back(self.named.get(part.anchor, [])) + self.block(part.first, part.last, part.inside)
            done.append(f'<div class="definition" id="{escape(part.anchor)}">{whole}</div>\n')
            first = part.last + 1
        return "".join(done) + self.listing(first, last)

    def listing(self, first: int, last: int) -> str:
        """Lines without the empty ones around them; numbers are drawn by the style sheet, and not copied."""
        while first <= last and not self.text[first - 1].strip():
            first += 1
        while first <= last and not self.text[last - 1].strip():
            last -= 1
        if first > last:
            return ""
        lines = "\n".join(f'<span class="source-line">{line}</span>' for line in self.lines[first - 1 : last])
        code = f'<div class="highlight"><pre>{lines}\n</pre></div>'
        return (
            f'<div class="highlight-python notranslate" style="counter-reset: source-line {first - 1}">{code}</div>\n'
        )

    def back(self, mentions: list[Mention]) -> str:
        """Which pages name a definition, and their equations that it implements or checks."""
        found = []
        for page, of_page in groupby(mentions, key=lambda mention: mention.page):
            every = list(of_page)
            place = next((m for m in every if not m.equation), every[0])
            numbers = [f'<a href="{self.to(page)}#{m.target}">({m.equation})</a>' for m in every if m.equation]
            name = self.app.env.titles[page].astext().partition(":")[0]
            found.append(" ".join([f'<a href="{self.to(page)}#{place.target}">{escape(name)}</a>', *numbers]))
        return f'<p class="origin named-in">In the book: {" · ".join(found)}</p>\n' if found else ""

    def to(self, page: str) -> str:
        return self.app.builder.get_relative_uri(self.file.page, page)


def contents(file: File, parts: list[Definition]) -> str:
    """The definitions of a file, for the list beside the page."""

    def entries(some: list[Definition]) -> str:
        items = [
            f'<li><a class="reference internal" href="#{p.anchor}">{p.name}</a>{entries(p.inside)}</li>' for p in some
        ]
        return f"<ul>{''.join(items)}</ul>" if some else ""

    return f'<ul><li><a class="reference internal" href="#">{escape(file.module)}</a>{entries(parts)}</li></ul>'


class LibraryDirective(BookDirective):
    """``{library}``: every module, by package, with the first sentence of its docstring and what it defines.

    The definitions are index entries as well, by which the search finds them: it lists those after all pages.
    """

    def run(self) -> list[Node]:
        self.env.note_reread()
        found: list[Node] = []
        for _, group in groupby(sorted(library(), key=folder), key=folder):
            files = list(group)
            found.append(nodes.rubric("", ".".join(files[0].path.parent.parts)))
            rows = [self.row(file) for file in files]
            found.append(elements.table(["Module", "What it is, and what it defines"], rows, [32, 68], "library"))
        return found

    def row(self, file: File) -> list[Cell]:
        parts = [part for part in file.definitions(set()) if not part.name.startswith("_")]
        entries = [("single", part.anchor, nodes.make_id(file.module), "", None) for part in parts]
        module = elements.inline(links.source_link(elements.code(file.module), file.path, self.env.docname))
        module["ids"].append(nodes.make_id(file.module))
        names = elements.join(self.link(file, part) for part in parts)
        return [
            [addnodes.index(entries=entries), module],
            elements.stack(marked(file.summary), [elements.inline(names, "source")] if names else ""),
        ]

    def link(self, file: File, part: Definition) -> Node:
        found = source.Source("", file.path, part.first, part.last, part.anchor)
        return links.source_link(part.name, found, self.env.docname)


def folder(file: File) -> str:
    return file.path.parent.as_posix()


def marked(text: str) -> list[Node]:
    """A line of a docstring, with what stands between backticks as code."""
    pieces = enumerate(text.split("`"))
    return [elements.code(piece) if n % 2 else nodes.Text(piece) for n, piece in pieces if piece]


def setup(app: Sphinx) -> dict[str, Any]:
    links.setup(app)
    app.add_directive("library", LibraryDirective)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
