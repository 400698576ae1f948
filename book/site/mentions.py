"""Names of tests, modules and functions in running text become links to their source; a test must exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from book.site import equations, links, press, rebuild, source
from book.site.source import Source, UnknownObject

LOG = logging.getLogger(__name__)
TEST_FILE = re.compile(r"tests/[\w/]+\.py(::[\w:]+)?(\[.*\])?")
TEST_NAME = re.compile(r"test_\w+(\.\.\.)?")  # with dots: the beginning of a long name
OBJECT = re.compile(r"fedlib(\.\w+)+(\(\))?")


def link_names(app: Sphinx, document: nodes.document) -> None:
    """Link every literal that names something; a warning where a test or an object is named that does not exist."""
    page = app.env.docname
    for literal in list(document.findall(nodes.literal)):
        if in_link(literal):
            continue
        try:
            found = named(literal.astext(), set(files_tested(app.env, page)))
        except UnknownObject as error:
            rebuild.note(app.env, "book_broken")
            LOG.warning("%s", error, location=literal, type="book", subtype="source")
            continue
        if found is None:
            continue
        path, anchor = (found, "") if isinstance(found, Path) else (found.path, found.anchor)
        app.env.note_dependency(str(press.root() / path))
        section = equations.section_of(literal)
        target = section["ids"][0] if isinstance(section, nodes.section) else ""
        links.remember(app.env, links.Mention(str(path), anchor, page, target))
        literal.replace_self(links.source_link(literal.deepcopy(), found, page))


def in_link(node: nodes.Node) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, nodes.reference | nodes.title) or node.tagname == "pending_xref":
            return True
    return False


def files_tested(env: Any, page: str) -> Iterator[str]:
    """Files of the tests that the listings of a page name: the first to be asked for a test that has no file."""
    for mention in getattr(env, "book_mentions", {}).get(page, []):
        if mention.path.startswith("tests/"):
            yield mention.path


def named(text: str, near: Set[str] = frozenset()) -> Source | Path | None:
    """What a literal names: a definition, a file, or None where it is neither, or could be several.

    Raises UnknownObject for the name of a test or of an object of the library that does not exist.
    """
    if TEST_FILE.fullmatch(text):
        if "::" in text:
            return source.find_test(text)
        if not (press.root() / text).is_file():
            raise UnknownObject(f"{text}: there is no such file of tests")
        return Path(text)
    if TEST_NAME.fullmatch(text):
        return by_name(text, near)
    if OBJECT.fullmatch(text):
        name = text.removesuffix("()")
        path, inside = source.module_of(name, press.root())
        return source.source_of(name) if inside else path.relative_to(press.root())
    return None


def by_name(text: str, near: Set[str]) -> Source | None:
    """The one test of a name (or of a beginning of it): among ``near`` files if there is one, else anywhere."""
    start = text.removesuffix("...")
    fits = [
        (f, name) for f, name in all_tests(press.root()) if (name.startswith(start) if "..." in text else name == start)
    ]
    if not fits:
        raise UnknownObject(f"{text}: no file below tests/ has a test of this name")
    for some in ([fit for fit in fits if fit[0] in near], fits):
        if len(some) == 1:
            return source.find_test("::".join(some[0]))
    return None


@cache
def all_tests(root: Path) -> tuple[tuple[str, str], ...]:
    """File and name of every test function."""
    found = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        for name in source.names(ast.parse(path.read_text(encoding="utf-8")).body):
            if name.startswith("test_"):
                found.append((path.relative_to(root).as_posix(), name))
    return tuple(found)


def begin(app: Sphinx) -> None:
    all_tests.cache_clear()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", begin)
    app.connect("doctree-read", link_names, priority=600)  # after the listings of the page are known
    return {"parallel_read_safe": False, "parallel_write_safe": True}
