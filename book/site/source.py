"""Finds by name what a page shows or names: an object of the library, a test, a file. Nothing is imported or pasted."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.nodes import Node
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxRole

from book.errors import nearest
from book.site import elements, press

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class UnknownObject(LookupError):
    """No such object or test; the message says what was looked for, where, and what comes nearest."""


@dataclass(frozen=True)
class Source:
    """Text of an object without docstrings, and where it stands."""

    text: str
    path: Path  # from the root
    first: int
    last: int
    anchor: str  # its name inside the file, such as FedDF.aggregate


class RepositoryFile(SphinxRole):
    """``{repo-file}`CONTRIBUTING.md` ``: a link to a file on the repository's website; the file must exist."""

    def run(self) -> tuple[list[Node], list[nodes.system_message]]:
        if not (press.root() / self.text).is_file():
            text = f"repo-file: there is no file {self.text} in the repository"
            message = self.inliner.reporter.error(text, line=self.lineno)
            return [elements.code(self.text)], [message]
        return [elements.link(elements.code(self.text), address(self.config, self.text))], []


def address(config: Config, path: Path | str, commit: str = "") -> str:
    """Where a file stands on the repository's website (its address is in ``_config.yml``), as of a commit or today."""
    theme = config.html_theme_options
    return f"{theme.get('repository_url', '')}/blob/{commit or theme.get('repository_branch', 'main')}/{path}"


def source_of(name: str, keep_docstring: bool = False, root: Path | None = None) -> Source:
    """Source of a dotted name: a function, class, method or module-level value of a package in the project.

    Raises UnknownObject, naming the nearest one that exists.
    """
    root = root or press.root()
    path, inside = module_of(name, root)
    tree = ast.parse(path.read_text())
    node, scope = None, tree.body
    if path.name == "__init__.py" and inside and inside[0] not in names(scope):
        path, tree = reexported(path, inside[0], name)
        scope = tree.body
    for part in inside:
        node = names(scope).get(part)
        if node is None:
            raise UnknownObject(
                f"{name}: {path.relative_to(root)} has no {part!r}.{nearest(part, sorted(names(scope)))}"
            )
        scope = getattr(node, "body", [])
    if node is None:
        raise UnknownObject(f"{name} is a module; name a function, class or value in it")
    lines = path.read_text().splitlines()
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    last = node.end_lineno or node.lineno
    hidden = set() if keep_docstring else docstring_lines(node, lines)
    text = [line for n, line in enumerate(lines[first - 1 : last], first) if n not in hidden]
    indent = len(text[0]) - len(text[0].lstrip())
    shown = "\n".join(line[indent:].rstrip() for line in text)
    return Source(shown, path.relative_to(root), first, last, ".".join(inside))


def module_of(name: str, root: Path) -> tuple[Path, list[str]]:
    """File of the longest prefix of ``name`` that is a module, and the parts after it."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        stem = root.joinpath(*parts[:cut])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file():
                return path, parts[cut:]
    raise UnknownObject(f"{name}: there is no module {parts[0]!r} in {root}; expected a name such as fedlib.losses.kd")


def reexported(package: Path, part: str, name: str) -> tuple[Path, ast.Module]:
    """A package's ``__init__`` may re-export lazily: look for the one module beside it that defines ``part``."""
    known: dict[str, list[Path]] = {}
    for path in sorted(package.parent.glob("*.py")):
        for defined in names(ast.parse(path.read_text()).body):
            known.setdefault(defined, []).append(path)
    if len(known.get(part, [])) == 1:
        path = known[part][0]
        return path, ast.parse(path.read_text())
    if part in known:
        files = ", ".join(path.name for path in known[part])
        raise UnknownObject(f"{name} stands in several files ({files}); name the module")
    raise UnknownObject(f"{name}: package {package.parent.name} has no {part!r}.{nearest(part, sorted(known))}")


def names(body: list[ast.stmt]) -> dict[str, Definition]:
    """Definitions of a module's or class's body, by name."""
    found: dict[str, Definition] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found[node.target.id] = node
    return found


def docstring_lines(node: ast.AST, lines: list[str]) -> set[int]:
    """Line numbers of all docstrings in ``node``, and of one empty line after each."""
    hidden: set[int] = set()
    for inner in ast.walk(node):
        if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if ast.get_docstring(inner, clean=False) is None or len(inner.body) == 1:
            continue  # a body that is only a docstring must keep it to stay valid
        text = inner.body[0]
        last = text.end_lineno or text.lineno
        hidden.update(range(text.lineno, last + 1))
        if last < len(lines) and not lines[last].strip():
            hidden.add(last + 1)
    return hidden


def find_test(node_id: str, root: Path | None = None) -> Source:
    """A pytest node id, verified to exist. Raises UnknownObject."""
    root = root or press.root()
    file, *inside = node_id.split("[")[0].split("::")
    path = root / file
    if not path.is_file() or not inside:
        raise UnknownObject(f"test {node_id}: expected path::name of an existing file below {root}")
    scope, node = ast.parse(path.read_text()).body, None
    for part in inside:
        node = names(scope).get(part)
        if node is None:
            raise UnknownObject(f"test {node_id}: {file} has no {part!r}.{nearest(part, sorted(names(scope)))}")
        scope = getattr(node, "body", [])
    assert node is not None
    return Source(node_id, Path(file), node.lineno, node.end_lineno or node.lineno, ".".join(inside))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("repo-file", RepositoryFile())
    return {"parallel_read_safe": False, "parallel_write_safe": True}
