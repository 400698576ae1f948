"""Equation, code, test: each numbered equation names the code that it is and the tests that check it, and back.

``{code-of}`` shows an object of the library and belongs to the nearest numbered equation before it in its section, or
to those that it names. ``{equation}`` adds to an equation what is not shown under it: an object that stands elsewhere,
a cell of the chapter, tests of what was derived. An equation with neither test nor cell is a warning.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging

from book.errors import nearest
from book.site import elements, links, press, rebuild, source
from book.site.elements import Cell
from book.site.source import Source

LOG = logging.getLogger(__name__)
NONE = "none"  # `:equation: none`: this code is no equation


class facts(nodes.Invisible, nodes.Element):
    """What ``{equation}`` says; taken out again when the page has been read."""


class SourceDirective(rebuild.BookDirective):
    """A directive that names objects and tests."""

    def objects(self, names: Iterable[str], keep_docstring: bool = False) -> list[Source]:
        return self.found(source.source_of(name, keep_docstring) for name in names)

    def tests(self) -> list[Source]:
        return self.found(source.find_test(test) for test in words(self.options.get("test")))

    def found(self, sources: Iterable[Source]) -> list[Source]:
        """What exists, each file noted as one that this page depends on; an error for what does not."""
        try:
            known = list(sources)
        except source.UnknownObject as error:
            raise self.error(str(error)) from error
        for path in {one.path for one in known}:
            self.env.note_dependency(str(press.root() / path))
        return known


class CodeOfDirective(SourceDirective):
    """``{code-of} fedlib.losses.kd`` with ``:test: tests/unit/test_losses.py::test_kd`` (one or more, by spaces).

    ``:equation:`` names the equations of this page that the code implements, or ``none``.
    """

    required_arguments = 1
    option_spec = {
        "test": directives.unchanged_required,
        "equation": directives.unchanged_required,
        "docstring": directives.flag,
    }

    def run(self) -> list[Node]:
        name = self.arguments[0]
        (found,) = self.objects([name], keep_docstring="docstring" in self.options)
        block = nodes.literal_block(found.text, found.text, language="python", classes=["code-of"])
        box = nodes.container("", block, classes=["code-of-box"], ids=[self.anchor(name)])
        box["book_code"], box["book_tests"] = found, self.tests()
        box["book_equations"] = words(self.options["equation"]) if "equation" in self.options else None
        return [box]

    def anchor(self, name: str) -> str:
        """An address for the listing, even where one page shows the same code twice."""
        bare = nodes.make_id(f"code-{name}")
        taken = {i for box in self.state.document.findall(nodes.container) for i in box["ids"]}
        return next(i for i in (bare, *(f"{bare}-{n}" for n in range(2, 99))) if i not in taken)


class EquationDirective(SourceDirective):
    """``{equation} label``: ``:code:`` (objects of the library), ``:cell:`` (what a cell defines), ``:test:``."""

    required_arguments = 1
    option_spec = dict.fromkeys(("code", "cell", "test"), directives.unchanged_required)

    def run(self) -> list[Node]:
        if not self.options:
            raise self.error("equation: say what implements or checks it: one of :code:, :cell:, :test:")
        said = facts(label=self.arguments[0], cells=words(self.options.get("cell")))
        said["code"], said["tests"] = self.objects(words(self.options.get("code"))), self.tests()
        self.set_source_info(said)
        return [said]


def words(text: str | None) -> list[str]:
    return (text or "").replace(",", " ").split()


@dataclass
class Equation:
    """A numbered equation of a page, and what is known of it."""

    block: nodes.math_block
    code: list[Node] = field(default_factory=list)
    tests: dict[Source, str] = field(default_factory=dict)  # and where on this page they are listed; "": nowhere
    sources: list[Source] = field(default_factory=list)
    checked: bool = False  # by a test, or by a cell that the page itself executes

    @property
    def anchor(self) -> str:
        return nodes.make_id(f"equation-{self.block['label']}")

    @property
    def number(self) -> str:
        return str(self.block["number"])

    def link(self) -> nodes.Node:
        """Its number, as a link from elsewhere on the page."""
        return nodes.reference("", "", nodes.Text(f"({self.number})"), refid=self.anchor, internal=True)


class Page:
    """The equations, listings and cells of one page, tied together."""

    def __init__(self, app: Sphinx, document: nodes.document):
        self.env, self.name, self.document = app.env, app.env.docname, document
        numbered = [block for block in document.findall(nodes.math_block) if block.get("number")]
        self.equations = {str(block["label"]): Equation(block) for block in numbered}
        self.cells = dict(defined_in_cells(document))

    def tie(self) -> None:
        boxes = [box for box in self.document.findall(nodes.container) if "book_code" in box]
        for box in boxes:
            self.tie_listing(box)
        for said in list(self.document.findall(facts)):
            self.tie_facts(said)
            said.parent.remove(said)
        for equation in self.equations.values():
            self.draw(equation)

    def tie_listing(self, box: nodes.container) -> None:
        """Tie a listing to its equations, and write under it where it comes from."""
        found, tests = box.attributes.pop("book_code"), box.attributes.pop("book_tests")
        named = box.attributes.pop("book_equations")
        labels = self.before(box) if named is None else [label for label in named if label != NONE]
        anchor, implemented = box["ids"][0], self.known(labels, box)
        for equation in implemented:
            short = found.anchor.removeprefix("_")
            equation.code.append(nodes.reference("", "", elements.code(short), refid=anchor, internal=True))
            equation.sources.append(found)
            for test in tests:
                equation.tests.setdefault(test, anchor)
        origin: list[Cell] = []
        if implemented:
            origin += ["implements ", elements.join(e.link() for e in implemented), " · "]
        origin.append(links.source_link(elements.code(str(found.path)), found, self.name))
        if tests:
            origin += [" · tested in ", self.grouped(tests)]
        box += elements.paragraph(origin, "origin")
        for one in (found, *tests):
            links.remember(self.env, links.Mention(str(one.path), one.anchor, self.name, anchor))

    def grouped(self, tests: list[Source]) -> Cell:
        """Tests by file, so that the name of a file stands once."""
        files = {str(test.path): [t for t in tests if t.path == test.path] for test in tests}
        return elements.join(
            (
                [elements.code(path), ": ", elements.join(self.test_link(test) for test in here)]
                for path, here in files.items()
            ),
            "; ",
        )

    def test_link(self, test: Source) -> nodes.Node:
        return links.source_link(elements.code(test.anchor.replace(".", "::")), test, self.name)

    def tie_facts(self, said: facts) -> None:
        """Add what ``{equation}`` says: code that is shown elsewhere, cells of this page, tests."""
        for equation in self.known([said["label"]], said):
            for found in said["code"]:
                equation.code.append(links.source_link(elements.code(found.anchor), found, self.name))
                equation.sources.append(found)
            for name in said["cells"]:
                if name not in self.cells:
                    self.complain(
                        f"equation: no cell of this page defines {name!r}.{nearest(name, sorted(self.cells))}", said
                    )
                    continue
                equation.code.append(self.tie_cell(name, equation))
                equation.checked = True
            for test in said["tests"]:
                equation.tests.setdefault(test, "")

    def tie_cell(self, name: str, equation: Equation) -> nodes.Node:
        """Write under a cell which equation it is; returns the link to it."""
        cell, anchor = self.cells[name], nodes.make_id(f"cell-{name}")
        if anchor not in cell["ids"]:
            cell["ids"].append(anchor)
        line = elements.paragraph([elements.code(name), " implements ", equation.link()], "origin", "cell-origin")
        cell.parent.insert(cell.parent.index(cell) + 1, line)
        return nodes.reference("", "", elements.code(name), refid=anchor, internal=True)

    def draw(self, equation: Equation) -> None:
        """The quiet line under an equation, and what its code and tests remember of it."""
        if not equation.tests and not equation.checked:
            label = equation.block["label"]
            text = f"equation {label} has neither a test nor a cell that checks it"
            mend = f"give its code-of a :test:, or add {{equation}} {label} with :test: or :cell:"
            self.complain(f"{text}: {mend}", equation.block)
        parts: list[Cell] = []
        if equation.code:
            parts.append(["code: ", elements.join(equation.code)])
        if equation.tests:
            parts.append(["test: " if len(equation.tests) == 1 else "tests: ", self.few(equation.tests)])
        if parts:
            line = elements.paragraph(elements.join(parts, " · "), "equation-links")
            equation.block.parent.insert(equation.block.parent.index(equation.block) + 1, line)
        for one in dict.fromkeys((*equation.sources, *equation.tests)):
            mention = links.Mention(str(one.path), one.anchor, self.name, equation.anchor, equation.number)
            links.remember(self.env, mention)

    def few(self, tests: dict[Source, str]) -> Cell:
        """The tests named for this equation alone, or else the first of those under its listings, to keep to a line."""
        listed = [test for test, where in tests.items() if where]
        own = [test for test in tests if test not in listed]
        names: list[Cell] = [elements.join(self.test_link(test) for test in own or listed[:1])]
        rest = listed if own else listed[1:]
        if rest:
            more = nodes.reference("", "", nodes.Text(f"{len(rest)} more"), refid=tests[rest[0]], internal=True)
            names += [" and ", more]
        return names

    def before(self, box: Node) -> list[str]:
        """The nearest numbered equation before a listing in its section."""
        section = section_of(box)
        found: list[str] = []
        for node in self.document.findall(lambda n: n is box or isinstance(n, nodes.math_block)):
            if node is box:
                break
            if isinstance(node, nodes.math_block) and node.get("number") and section_of(node) is section:
                found = [str(node["label"])]
        return found

    def known(self, labels: list[str], where: nodes.Element) -> list[Equation]:
        for label in labels:
            if label not in self.equations:
                known = nearest(label, sorted(self.equations))
                self.complain(f"equation: no numbered equation of this page has the label {label!r}.{known}", where)
        return [self.equations[label] for label in labels if label in self.equations]

    def complain(self, text: str, where: nodes.Element) -> None:
        """A warning at this place; the page is read, and complained of, again by the next build."""
        rebuild.note(self.env, "book_broken")
        LOG.warning("%s", text, location=where, type="book", subtype="equation")


def section_of(node: Node) -> Node | None:
    while node.parent is not None and not isinstance(node.parent, nodes.section):
        node = node.parent
    return node.parent


def defined_in_cells(document: nodes.document) -> Iterable[tuple[str, nodes.container]]:
    """Names that the code cells of a page define, each with its (last) cell."""
    for cell in document.findall(nodes.container):
        if cell.get("nb_element") != "cell_code":
            continue
        for block in list(cell.findall(nodes.literal_block))[:1]:
            try:
                tree = ast.parse(block.astext())
            except SyntaxError:  # a shell command or a magic
                continue
            yield from ((name, cell) for name in source.names(tree.body))


def tie(app: Sphinx, document: nodes.document) -> None:
    Page(app, document).tie()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(facts)
    app.add_directive("code-of", CodeOfDirective)
    app.add_directive("equation", EquationDirective)
    app.connect("doctree-read", tie)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
