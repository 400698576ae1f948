"""Is what was executed still what the sources say? Decided by a hash of contents, never by a time stamp or a name.

The hash covers the code cells, what they can reach (:mod:`book.definitions`) in the fedlib modules that a run imported
(all as syntax trees: comments, docstrings and layout do not count), the parameters, the data and the pinned
requirements. Which modules and data those are is learnt from the run itself. That is sound: a run whose cells and
modules are all unchanged would import the same ones again. A module that was given another name is found by what it
holds, and read under the name that it had.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from book import chapters, definitions, files, parsed, records

State = Literal["fresh", "stale", "failed", "never"]
Names = tuple[tuple[str, str], ...]  # modules that were given another name: pairs of the present and the former one
COMPUTING = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib", "pillow")
NEW_LINES = 3  # as many lines that a package's table got since a run are looked for
_MISSING = "missing"
_RUNS_DIFFERENTLY = {"parameters", "raises-exception", "skip-execution"}  # tags that change what a cell does


def digest(content: Any) -> str:
    """Short hash of anything JSON can say."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _tree(node: Any) -> Any:
    """A syntax tree as lists, the same under every Python: those differ in empty fields, and in empty pieces of
    f-strings, which are left out.
    """
    if isinstance(node, ast.AST):
        fields = [(name, _tree(value)) for name, value in ast.iter_fields(node)]
        if isinstance(node, ast.JoinedStr):
            fields = [("values", [_tree(v) for v in node.values if getattr(v, "value", None) != ""])]
        return [type(node).__name__, [f for f in fields if f[1] not in (None, []) and f[0] != "kind"]]
    if isinstance(node, list):
        return [_tree(item) for item in node]
    return node if node is None else f"{type(node).__name__} {node!r}"


class _Former(ast.NodeTransformer):
    """A tree with absolute imports, in which modules have the names that they had."""

    def __init__(self, package: str, names: Names):
        self.package, self.names, self.called = package, dict(names), dict[str, str]()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        home = node.module or ""
        if node.level:
            above = self.package.split(".")[: len(self.package.split(".")) + 1 - node.level]
            home = ".".join([*above, *([node.module] if node.module else [])])
        aliases = []
        for alias in node.names:
            was = self.names.get(f"{home}.{alias.name}")
            name = was.rpartition(".")[2] if was else alias.name
            if was and not alias.asname:
                self.called[alias.name] = name
            aliases.append(ast.alias(name, alias.asname))
        return ast.ImportFrom(self.names.get(home, home), aliases, 0)

    def visit_Import(self, node: ast.Import) -> ast.AST:
        return ast.Import([ast.alias(self.names.get(a.name, a.name), a.asname) for a in node.names])

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self.called.get(node.id, node.id), node.ctx)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """In a package's table of exports, too, a module is called by its last name."""
        was = self.names.get(f"{self.package}.{node.value!s}") if self.package else None
        return ast.Constant(was.rpartition(".")[2]) if was else node


def _former(tree: ast.Module, package: str, names: Names) -> ast.Module:
    imports = _Former(package, names)
    for node in definitions.nodes(tree):  # what names stand for must be known before they are met
        if isinstance(node, ast.ImportFrom):
            imports.visit_ImportFrom(node)
    return imports.visit(tree)


def _without_docstrings(tree: ast.Module, *, module: bool) -> ast.Module:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef) + ((ast.Module,) if module else ())
    for node in definitions.nodes(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def _parsed(source: str) -> ast.Module | None:
    """The syntax tree of a cell without docstrings; None for what is not Python. (A bare string at its end is output
    there, not a docstring.)
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        try:  # %magic and !shell lines
            from IPython.core.inputtransformer2 import TransformerManager

            tree = ast.parse(TransformerManager().transform_cell(source))
        except SyntaxError:
            return None
    return _without_docstrings(tree, module=False)


def _cell(source: str, tree: ast.Module | None) -> Any:
    """What a cell does. A last ";" hides output."""
    last = source.rstrip().rsplit("\n", 1)[-1].split("#", 1)[0].rstrip()
    return source if tree is None else [_tree(tree), last.endswith(";")]


def _cells(notebook: Any, names: Names = ()) -> definitions.Part:
    """The code cells of a notebook as one statement: what they do, in order, with the tags that change it."""
    cells = [
        (cell.source, tuple(sorted(_RUNS_DIFFERENTLY & set(chapters.tags(cell)))))
        for cell in chapters.code_cells(notebook)
    ]
    return _statement(tuple(cells), names, tuple(fedlib_modules()))


@lru_cache(maxsize=256)
def _statement(
    cells: tuple[tuple[str, tuple[str, ...]], ...], names: Names, modules: tuple[str, ...]
) -> definitions.Part:
    trees = [_parsed(source) for source, _ in cells]
    whole = ast.Module([statement for tree in trees if tree for statement in tree.body], [])
    _former(whole, "", names)  # in place, so that a name that one cell imports is known in all
    split = _split(whole, trees)
    done = [[_cell(source, tree), list(tags)] for (source, tags), tree in zip(cells, split, strict=True)]
    strings = ast.List([ast.Constant(source) for (source, _), tree in zip(cells, trees, strict=True) if tree is None])
    words = definitions.words(whole) | definitions.words(strings)
    bound = definitions.bindings(whole, list(modules))
    return definitions.Part(digest(done), words, definitions.wholes(whole, bound))


def _split(whole: ast.Module, trees: list[ast.Module | None]) -> list[ast.Module | None]:
    """The statements of ``whole`` as cells again, in which there were as many as in ``trees``."""
    parts: list[ast.Module | None] = []
    at = 0
    for tree in trees:
        parts.append(tree and ast.Module(whole.body[at : at + len(tree.body)], []))
        at += len(tree.body) if tree else 0
    return parts


def cells_digest(notebook: Any) -> str:
    """Hash of the code cells of a notebook, in order, and of the tags that change what they do."""
    return _cells(notebook).digest


def _path(name: str) -> Path:
    """The file of a module, or of a package's ``__init__``."""
    path = chapters.ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@lru_cache(maxsize=4096)
def _module(
    path: Path, mtime_ns: int, size: int, name: str, names: Names, known: tuple[str, ...]
) -> definitions.Module:
    source = path.read_bytes()
    if names:  # rare
        return _taken_apart(source, path, name, names, known)
    shelf = parsed.shelf(chapters.build_folder())
    return shelf.module(name, source, (path.name, known), lambda: _taken_apart(source, path, name, names, known))


def _taken_apart(source: bytes, path: Path, name: str, names: Names, known: tuple[str, ...]) -> definitions.Module:
    try:
        tree = _without_docstrings(ast.parse(source), module=True)
    except SyntaxError:
        unreadable = definitions.Part(hashlib.sha256(source).hexdigest()[:16], frozenset(), frozenset())
        return definitions.Module([unreadable])
    package = path.name == "__init__.py"
    tree = _former(tree, name if package else name.rpartition(".")[0], names)
    bound = definitions.bindings(tree, known)
    return definitions.Module.of(tree, lambda statement: digest(_tree(statement)), bound, package)


def module(name: str, names: Names = (), known: tuple[str, ...] = ()) -> definitions.Module | None:
    """A fedlib module in parts; None when it is not there."""
    path = _path(name)
    try:
        stat = path.stat()
        return _module(path, stat.st_mtime_ns, stat.st_size, name, names, known)
    except OSError:
        return None


def fedlib_modules() -> list[str]:
    """Every module and package of fedlib."""
    paths = (p.relative_to(chapters.ROOT).with_suffix("") for p in (chapters.ROOT / "fedlib").rglob("*.py"))
    return sorted(".".join(p.parts[:-1] if p.name == "__init__" else p.parts) for p in paths)


def requirements_digest() -> str:
    """Hash of the pins of the packages that compute or draw; a new version of a Sphinx theme moves no number."""
    path = chapters.ROOT / "requirements.txt"
    lines = files.read_text(path).splitlines() if path.exists() else []
    pins = [pin for line in lines if (pin := line.split("#", 1)[0].strip())]
    return digest(sorted(pin for pin in pins if pin.split("=", 1)[0].strip().lower() in COMPUTING))


@dataclass(frozen=True)
class Sources:
    """The sources of one chapter at one moment: taken before its run, so that an edit meanwhile makes it stale."""

    slug: str
    cells: definitions.Part
    modules: dict[str, definitions.Module]
    requirements: str
    names: Names = ()

    @classmethod
    def take(cls, slug: str, names: Names = ()) -> Sources:
        former = dict(names)
        present = fedlib_modules()
        known = tuple(sorted(former.get(name, name) for name in present))
        found = {former.get(name, name): module(name, names, known) for name in present}
        parsed.shelf(chapters.build_folder()).keep()
        modules = {name: there for name, there in found.items() if there}
        return cls(slug, _cells(chapters.read(slug), names), modules, requirements_digest(), names)

    def dependencies(
        self, parameters: dict[str, Any], modules: Iterable[str] | None = None, data: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """What a run depends on. Without `modules` (a run that never said which) all of fedlib counts."""
        imported = set(self.modules if modules is None else modules)
        reached = definitions.reachable(self.cells, self.modules, imported)
        imported |= {name for name in self.modules if reached.whole(name)}
        return {
            "cells": self.cells.digest,
            "modules": {name: self._digest(name, reached) for name in sorted(imported)},
            "parameters": parameters,
            "data": data or {},
            "requirements": self.requirements,
        }

    def _digest(self, name: str, reached: definitions.Reached) -> str:
        if name not in self.modules:
            return _MISSING
        return digest([part.digest for part in self.modules[name].parts(reached.words, reached.whole(name))])

    def only_offers_more(self, name: str, modules: Mapping[str, str]) -> bool:
        """Whether a package is what it was in ``modules`` (digests by name) but for a few lines of its table that lead
        to modules which the run did not import: had it used such a line, it would have.
        """
        reached = definitions.reachable(self.cells, self.modules, modules)
        if name not in self.modules or reached.whole(name):
            return False
        parts = self.modules[name].parts(reached.words)
        idle = [n for n, part in enumerate(parts) if part.home and f"{name}.{part.home}" not in modules]
        return any(
            digest([part.digest for n, part in enumerate(parts) if n not in new]) == modules[name]
            for count in range(1, NEW_LINES + 1)
            for new in itertools.combinations(idle, count)
        )

    def as_named(self, modules: Mapping[str, str]) -> Sources:
        """The same, with modules that have gone since ``modules`` (digests by name) found again by what they hold."""
        sources = self
        for _ in modules:
            gone = {was: name for name, was in modules.items() if name not in sources.modules}
            strange = [name for name in sources.modules if name not in modules] if gone else []
            former = next(((new, old) for new in strange if (old := gone.get(sources._alone(new, modules)))), None)
            if former is None:
                break
            sources = Sources.take(self.slug, (*sources.names, former))
        return sources

    def _alone(self, name: str, modules: Iterable[str]) -> str:
        """Digest of a module beside those that a run imported."""
        return self._digest(name, definitions.reachable(self.cells, self.modules, {*modules, name}))


def find_pack(name: str) -> Path | None:
    """The file of a data set, where fedlib looks for it; None for embedded and absent sets."""
    folders = [os.environ.get("FEDLIB_DATA"), os.environ.get("FEDLIB_CACHE") or chapters.ROOT / "data" / "cache"]
    paths = [Path(folder).expanduser() / f"{name}.npz" for folder in folders if folder]
    return next((p for p in paths if p.is_file()), None)


def packs(names: list[str]) -> dict[str, str]:
    """Checksums of the data files of a run, to be compared later."""
    return {name: files.sha256(path) for name in names if (path := find_pack(name))}


def _data_now(data: dict[str, str], known: dict[str, str]) -> dict[str, str]:
    """Checksums of the data as they are now. A file that is not here cannot have changed: its checksum stands."""
    now = dict(data)
    for name, was in known.items():
        path = find_pack(name)
        if path and name in now and (sha := files.sha256(path)) != was:
            now[name] = f"changed to {sha}"
    return now


def changes(slug: str, dependencies: dict[str, Any], known_packs: dict[str, str] | None = None) -> list[str]:
    """What is no longer as the dependencies of a run say; empty when the run is fresh."""
    changed, modules = [], dependencies["modules"]
    sources = Sources.take(slug).as_named(modules)
    now = sources.dependencies({}, modules)
    if now["cells"] != dependencies["cells"]:
        changed.append("the chapter's code cells")
    else:  # other cells may reach other definitions, which says nothing about modules
        differ = [name for name, is_ in now["modules"].items() if modules.get(name) != is_]
        changed += [name for name in differ if name not in modules or not sources.only_offers_more(name, modules)]
    data = _data_now(dependencies["data"], known_packs or {})
    changed += [f"data set {name}" for name, was in dependencies["data"].items() if data[name] != was]
    if now["requirements"] != dependencies["requirements"]:
        changed.append("requirements.txt")
    return changed


def record_changes(slug: str, record: records.Record) -> list[str]:
    """Like `changes`, for a record."""
    return changes(slug, record["dependencies"], record.get("packs"))


def state(slug: str, profile: str) -> State:
    """State of a chapter's last run at a profile (or, for a run with other parameters, at its stem).

    A failed run that has been repaired by going back to the sources of the last good run is fresh again.
    """
    record = records.read(slug, profile)
    if record is not None and not records.belongs(record, slug, profile):
        return "never"
    kept = records.good(record)
    path = chapters.executed_path(slug, profile)
    whole = kept is not None and path.exists() and files.sha256(path) == kept["notebook_sha256"]
    if record is None or (record["status"] == "ok" and not path.exists()):
        return "never"
    if kept is record:
        return "fresh" if whole and not record_changes(slug, record) else "stale"
    if whole and kept and record_changes(slug, record) and not record_changes(slug, kept):
        return "fresh"
    return "failed"


def why(slug: str, profile: str) -> str:
    """One line on why a run is not fresh; "" when it is."""
    now = state(slug, profile)
    if now == "fresh":
        return ""
    record = records.read(slug, profile)
    if now == "never" or record is None:
        return "never executed"
    if now == "failed":
        error = record.get("error") or {}
        lines = str(error.get("message", "")).strip().splitlines() or [""]
        return f"failed: {error.get('type', 'error')}: {lines[0]}"
    changed = record_changes(slug, record) or ["the executed notebook itself"]
    return "changed since it was executed: " + ", ".join(changed)
