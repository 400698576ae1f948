"""Chapters are code, too: ruff on their cells, with the lines of chapter.md, and no page outside the table of contents.

``python -m book.lint`` reports, ``python -m book.lint --format`` lays the cells out as ruff does. That never changes
what a cell does, so evidence stays fresh. ``--fix`` mends what ruff can mend, too, such as the order of imports. That
does change cells, and their chapters must run again.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys

from book import blocks, chapters, contents, files, freshness
from book.errors import PressError

# A chapter's column on the website holds 100 characters in a window of 1280 pixels: no line is cut off, none scrolls.
COLUMN = 100


def findings(slug: str) -> list[str]:
    """What ruff finds in a chapter's cells, one line each: ``papers/moon/chapter.md:80:5: F401 ...``.

    A line that is too long is named only in cells that are laid out well: the layout mends the others.
    """
    cells = blocks.code_cells(files.read_text(chapters.chapter_path(slug)))
    laid_out = _laid_out(slug, cells)
    lines = [
        (cell.first, 1, "this cell is laid out in another way (mended by: make format)")
        for cell, well in zip(cells, laid_out, strict=True)
        if _code(cell) != well
    ]
    crooked = {first for first, _, _ in lines}
    for found in json.loads(_ruff(slug, cells, "check", "--output-format", "json")):
        cell, code = cells[(found["cell"] or 1) - 1], found["code"] or "error"
        if code == "E501" and cell.first in crooked:
            continue
        safe = (found["fix"] or {}).get("applicability") == "safe"
        hint = " (mended by: python -m book.lint --fix)" if safe else ""
        place = cell.first + found["location"]["row"] - 1, found["location"]["column"]
        lines.append((*place, f"{code} {found['message']}{hint}"))
    told = [f"{_name(slug)}:{row}:{column}: {text}" for row, column, text in sorted(lines)]
    return told + changes_of_the_library(slug)


def changes_of_the_library(slug: str) -> list[str]:
    """Where a chapter would change the library that it runs: by ``%%method``, an assignment, or ``setattr``.

    What such a cell measures is not what the book's code does.
    """
    cells = blocks.code_cells(files.read_text(chapters.chapter_path(slug)))
    found: list[tuple[int, str]] = []
    ours = {"fedlib"}
    for cell in cells:
        found += [
            (cell.first + n, f"{line.split()[0]} edits the library: it is for a reader's notebook, not for a chapter")
            for n, line in enumerate(cell.lines)
            if line.startswith("%%method")
        ]
        try:
            tree = ast.parse(cell.text)
        except SyntaxError:  # ruff names it
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fedlib":
                ours |= {name.asname or name.name for name in node.names}
            elif isinstance(node, ast.Import):
                ours |= {name.asname for name in node.names if name.asname and name.name.split(".")[0] == "fedlib"}
        for node in ast.walk(tree):
            found += [(cell.first + at - 1, f"{name} is the library's: a chapter does not change it")
                      for at, name in _assigned(node) if name.split(".")[0] in ours]  # fmt: skip
    return [f"{_name(slug)}:{row}:1: {text}" for row, text in sorted(set(found))]


def _assigned(node: ast.AST) -> list[tuple[int, str]]:
    """The attributes that a statement sets or deletes, each with its line, as they are written."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
        return [(node.lineno, ast.unparse(node))]
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr") and node.args:
        return [(node.lineno, ast.unparse(node.args[0]))]
    return []


def mend(slug: str, fix: bool = False) -> bool:
    """Write a chapter with its cells laid out as ruff does; with ``fix``, what ruff mends safely, too. True if changed.

    Raises PressError when a layout would change what a cell does.
    """
    path = chapters.chapter_path(slug)
    source = files.read_text(path)
    cells = blocks.code_cells(source)
    if fix:
        fixed = _sources(_ruff(slug, cells, "check", "--fix-only", "-q"))
        source = _with(source, cells, fixed)
        cells = blocks.code_cells(source)
    mended = _with(source, cells, _laid_out(slug, cells))
    if _does(mended) != _does(source):
        raise PressError(f"{path}: laid out anew, its cells would do something else; nothing was written")
    changed = mended != files.read_text(path)
    if changed:
        files.write(path, mended)
    return changed


def _name(slug: str) -> str:
    return chapters.chapter_path(slug).relative_to(chapters.ROOT).as_posix()


def _code(cell: blocks.Block) -> str:
    return cell.text.rstrip()


def _ruff(slug: str, cells: list[blocks.Block], *command: str) -> str:
    """What ruff makes of the cells as one notebook. Its rules for chapters stand in pyproject.toml."""
    notebook = {
        "cells": [
            {"cell_type": "code", "execution_count": None, "id": f"cell-{n}", "metadata": {}, "outputs": [],
             "source": _code(cell)}
            for n, cell in enumerate(cells)
        ],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }  # fmt: skip
    layout = ["--config", f"line-length = {COLUMN}", "--config", "format.skip-magic-trailing-comma = true"]
    call = [sys.executable, "-m", "ruff", *command, *layout]
    call += ["--stdin-filename", _name(slug).replace(".md", ".ipynb"), "-"]
    done = subprocess.run(call, cwd=chapters.ROOT, input=json.dumps(notebook), capture_output=True, encoding="utf-8")
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise PressError(f"{_name(slug)}: ruff {command[0]}: {done.stderr.strip()}")
    return done.stdout


def _sources(notebook: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook)["cells"]]


def _laid_out(slug: str, cells: list[blocks.Block]) -> list[str]:
    """The cells as the formatter writes them; as they are where it cannot read one of them."""
    try:
        return _sources(_ruff(slug, cells, "format", "-q"))
    except PressError:
        return [_code(cell) for cell in cells]


def _with(source: str, cells: list[blocks.Block], sources: list[str]) -> str:
    """The chapter with other code in its cells, and all else as it was."""
    lines = source.splitlines()
    for cell, code in reversed(list(zip(cells, sources, strict=True))):
        lines[cell.first - 1 : cell.first - 1 + len(cell.lines)] = code.splitlines()
    return "\n".join(lines) + "\n"


def _does(source: str) -> str:
    import jupytext  # slow to import

    return freshness.cells_digest(jupytext.reads(source, fmt="md:myst"))


def main(arguments: list[str] | None = None) -> int:
    """The command line; 1 when there is something to mend."""
    parser = argparse.ArgumentParser(prog="python -m book.lint", description=__doc__.splitlines()[0])
    parser.add_argument("slugs", nargs="*", help="chapters; all when none is given")
    parser.add_argument("--format", action="store_true", help="lay the cells out, which leaves what they do")
    parser.add_argument("--fix", action="store_true", help="mend what ruff can mend, too; chapters run again")
    asked = parser.parse_args(arguments)
    slugs = [chapters.require(slug) for slug in asked.slugs] or chapters.slugs()
    slugs = [slug for slug in slugs if chapters.chapter_path(slug).exists()]
    if asked.format or asked.fix:
        for slug in slugs:
            if mend(slug, asked.fix):
                print(f"mended: {_name(slug)}")
        return 0
    found = [line for slug in slugs for line in findings(slug)] + contents.problems()
    print("\n".join(found), end="\n" if found else "")
    return bool(found)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PressError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
