"""Is what was executed still what the sources say? Decided by a hash, never by a time stamp.

The hash covers the code cells, what they can reach (:mod:`book.definitions`) in the fedlib modules that a run imported
(all as syntax trees: comments, docstrings and layout do not count), the parameters, the data and the pinned
requirements. Which modules and data those are is learnt from the run itself. That is sound: a run whose cells and
modules are all unchanged would import the same ones again.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from book import chapters, definitions, files, records

State = Literal["fresh", "stale", "failed", "never"]
COMPUTING = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "matplotlib", "pillow")
_MISSING = "missing"
_RUNS_DIFFERENTLY = {"parameters", "raises-exception", "skip-execution"}  # tags that change what a cell does


def digest(content: Any) -> str:
    """Short hash of anything JSON can say."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _tree(node: Any) -> Any:
    """A syntax tree as lists, the same under every Python: those differ in empty fields, which are left out."""
    if isinstance(node, ast.AST):
        fields = [(name, _tree(value)) for name, value in ast.iter_fields(node)]
        return [type(node).__name__, [f for f in fields if f[1] not in (None, []) and f[0] != "kind"]]
    if isinstance(node, list):
        return [_tree(item) for item in node]
    return node if node is None else f"{type(node).__name__} {node!r}"


def _without_docstrings(tree: ast.AST, *, module: bool) -> ast.AST:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef) + ((ast.Module,) if module else ())
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def _parsed(source: str) -> ast.AST | None:
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


def _cell(source: str) -> Any:
    """What a cell does. A last ";" hides output."""
    tree = _parsed(source)
    last = source.rstrip().rsplit("\n", 1)[-1].split("#", 1)[0].rstrip()
    return source if tree is None else [_tree(tree), last.endswith(";")]


def _cell_words(notebook: Any) -> definitions.Words:
    trees = [_parsed(c.source) or ast.Constant(c.source) for c in chapters.code_cells(notebook)]
    return frozenset().union(*map(definitions.words, trees))


def cells_digest(notebook: Any) -> str:
    """Hash of the code cells of a notebook, in order, and of the tags that change what they do."""
    cells = chapters.code_cells(notebook)
    return digest([[_cell(c.source), sorted(_RUNS_DIFFERENTLY & set(chapters.tags(c)))] for c in cells])


@lru_cache(maxsize=1024)
def _module(path: Path, mtime_ns: int, size: int) -> definitions.Module:
    source = path.read_bytes()
    try:
        tree = _without_docstrings(ast.parse(source), module=True)
    except SyntaxError:
        return definitions.Module([(hashlib.sha256(source).hexdigest()[:16], frozenset())])
    assert isinstance(tree, ast.Module)
    return definitions.Module.of(tree, lambda statement: digest(_tree(statement)))


def module(name: str) -> definitions.Module | None:
    """A fedlib module in parts; None when it is not there."""
    path = chapters.ROOT.joinpath(*name.split(".")).with_suffix(".py")
    try:
        stat = path.stat()
    except OSError:
        return None
    return _module(path, stat.st_mtime_ns, stat.st_size)


def fedlib_modules() -> list[str]:
    """Every module of fedlib but the packages' __init__, which hold re-exports only."""
    paths = (chapters.ROOT / "fedlib").rglob("*.py")
    names = [p.relative_to(chapters.ROOT).with_suffix("").parts for p in paths if p.name != "__init__.py"]
    return sorted(".".join(parts) for parts in names)


def requirements_digest() -> str:
    """Hash of the pins of the packages that compute or draw; a new version of a Sphinx theme moves no number."""
    path = chapters.ROOT / "requirements.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pins = [pin for line in lines if (pin := line.split("#", 1)[0].strip())]
    return digest(sorted(pin for pin in pins if pin.split("=", 1)[0].strip().lower() in COMPUTING))


@dataclass(frozen=True)
class Sources:
    """The sources of one chapter at one moment: taken before its run, so that an edit meanwhile makes it stale."""

    cells: str
    words: definitions.Words
    modules: dict[str, definitions.Module]
    requirements: str

    @classmethod
    def take(cls, slug: str) -> Sources:
        notebook = chapters.read(slug)
        modules = {name: found for name in fedlib_modules() if (found := module(name))}
        return cls(cells_digest(notebook), _cell_words(notebook), modules, requirements_digest())

    def dependencies(
        self, parameters: dict[str, Any], modules: list[str] | None = None, data: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """What a run depends on. Without `modules` (a run that never said which) all of fedlib counts."""
        names = sorted(self.modules if modules is None else modules)
        there = {n: self.modules[n] for n in names if n in self.modules}
        reached = definitions.reachable(self.words, there.values())
        return {
            "cells": self.cells,
            "modules": {n: digest(there[n].reached(reached)) if n in there else _MISSING for n in names},
            "parameters": parameters,
            "data": data or {},
            "requirements": self.requirements,
        }


def find_pack(name: str) -> Path | None:
    """The file of a data set, where fedlib looks for it; None for embedded and absent sets."""
    folders = [os.environ.get("FEDLIB_DATA"), os.environ.get("FEDLIB_CACHE") or chapters.ROOT / "data" / "cache"]
    paths = [Path(folder).expanduser() / f"{name}.npz" for folder in folders if folder]
    return next((p for p in paths if p.is_file()), None)


def packs(names: list[str]) -> dict[str, Any]:
    """State of the data files of a run, to be compared later."""
    found = {}
    for name in names:
        if path := find_pack(name):
            stat = path.stat()
            found[name] = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": files.sha256(path)}
    return found


def _data_now(data: dict[str, str], known: dict[str, Any]) -> dict[str, str]:
    """Checksums of the data as they are now. A file that is not here cannot have changed: its checksum stands."""
    now = dict(data)
    for name, was in known.items():
        path = find_pack(name)
        if path is None or name not in now:
            continue
        stat = path.stat()
        touched = (stat.st_size, stat.st_mtime_ns) != (was["size"], was["mtime_ns"])
        if touched and (sha := files.sha256(path)) != was["sha256"]:
            now[name] = f"changed to {sha}"
    return now


def changes(slug: str, dependencies: dict[str, Any], known_packs: dict[str, Any] | None = None) -> list[str]:
    """What is no longer as the dependencies of a run say; empty when the run is fresh."""
    changed = []
    now = Sources.take(slug).dependencies({}, list(dependencies["modules"]))
    if now["cells"] != dependencies["cells"]:
        changed.append("the chapter's code cells")
    else:  # other cells may reach other definitions, which says nothing about modules
        changed += [name for name, was in dependencies["modules"].items() if now["modules"][name] != was]
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
