"""The notebook edition of a chapter: what the website's reader reads, as a notebook to run and to change.

Text is plain Markdown, code cells have the book's outputs, ``{code-of}`` is a cell whose lines can be edited
(:mod:`fedlib.study.method`), and the first cell knows the book's numbers (:mod:`fedlib.study.beside`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
import yaml

from book import chapters, files, website
from book.errors import PressError
from book.site import executed, plain, press, source as sources

FOLDER = "editions"
HIDDEN = {"hide-input": ["source"], "remove-input": ["source"], "hide-output": ["outputs"]}
HIDDEN |= {tag: ["source", "outputs"] for tag in ("hide-cell", "remove-cell")}
SET_UP = """\
# @title Set up: install the library where it is missing, and know the book's numbers
import importlib.util

if importlib.util.find_spec("fedlib") is None:
    %pip install --quiet "fedlib @ {source}"

from fedlib.study import beside, method

method.load()  # gives this notebook %%method
# by profile and metric: mean over the seeds, standard deviation, number of seeds
beside.hand_over(
{books})"""
USE = """\
---

**This is a notebook to change.** The parameters stand below. A cell that begins with `%%method` is the method itself:
edit a line, run it, and run the cells below again. Names in it, such as `Tensor`, are those of the module that stands
after `%%method`; you need not import them. Outputs are the book's until you run a cell. At the end a table puts your
run beside the book's."""
DRAFT = "\n\n**Draft:** {words}; what is missing below reads *[not run]*. `make run P={slug}` mends it."
COMMITTED = (
    "\n\n**Without outputs of the book:** {words}. Numbers in the text are those of the committed quick run; outputs "
    "that are missing below come when you run the cells. `make run P={slug}` puts the book's own there."
)


def notebook(slug: str, source: str | None = None) -> nbformat.NotebookNode:
    """The edition of a chapter, valid, the same bytes for the same book.

    ``source``: what pip installs the library from where it is missing; the repository when None. Raises PressError for
    a chapter whose text quotes what does not exist.
    """
    base, repository = _addresses()
    chapter = chapters.read(slug)
    state = press.state(slug)
    if press.executed_path(slug).exists():
        done = nbformat.read(press.executed_path(slug), as_version=4)
        executed.graft(chapter, done)
    try:
        tell = plain.Plain(slug, chapter, base, draft=state.kind != "fresh")
        cells = [cell for old in chapter.cells for cell in _cells(old, tell)]
    except (LookupError, ValueError) as error:
        raise PressError(f"{chapters.chapter_path(slug)}: {error}") from error
    first = next(n for n, cell in enumerate(cells) if cell.cell_type == "code")
    told = COMMITTED if press.measured(slug, "quick") else DRAFT
    draft = "" if state.kind == "fresh" else told.format(words=state.words, slug=slug)
    set_up = nbformat.v4.new_code_cell(_set_up(slug, source or f"git+{repository}"))
    set_up.metadata = nbformat.from_dict({"cellView": "form", "jupyter": {"source_hidden": True}})
    cells[first:first] = [nbformat.v4.new_markdown_cell(USE + draft), set_up]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:03d}"
    about = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    made = nbformat.v4.new_notebook(cells=cells, metadata=about)
    made.metadata["edition"] = _digest(made)
    nbformat.validate(made)
    return made


def _addresses() -> tuple[str, str]:
    """Of the website and of the repository, as ``_config.yml`` has them; "" in a book without one."""
    path = chapters.ROOT / "_config.yml"
    config = yaml.safe_load(files.read_text(path)) if path.exists() else {}
    return config.get("html", {}).get("baseurl", ""), config.get("repository", {}).get("url", "")


def text(slug: str, source: str | None = None) -> str:
    """The edition of a chapter as the contents of a file."""
    return nbformat.writes(notebook(slug, source)) + "\n"


def write(slugs: list[str], folder: Path, source: str | None = None) -> tuple[list[Path], list[Path]]:
    """Put editions into a folder; returns what was written, and what is kept because a reader has changed it.

    While nothing changes that the website is made of, what lies there is not made again. In the press's own folder
    nothing is a reader's.
    """
    files.make_folder(folder)
    ours = chapters.build_folder() in folder.resolve().parents
    stamp, now = chapters.build_folder() / "editions.json", f"{source} {website.inputs_digest(draft=False)}"
    known = files.read_json(stamp) or {}
    current = known.get(str(folder.resolve())) == now
    written, kept = [], []
    for slug in slugs:
        path = folder / f"{slug}.ipynb"
        if path.exists() and not ours and not _untouched(path):
            kept.append(path)
        elif not (current and path.exists()):
            files.write(path, text(slug, source))
            written.append(path)
    if set(slugs) >= set(chapters.slugs()):
        files.write_json(stamp, known | {str(folder.resolve()): now})
    return written, kept


def _untouched(path: Path) -> bool:
    """Whether a notebook is an edition as the press has written it: neither edited nor run since."""
    try:
        found = nbformat.read(path, as_version=4)
    except (ValueError, OSError):  # no notebook any more: somebody's work all the same
        return False
    return found.metadata.get("edition") == _digest(found)


def _digest(found: nbformat.NotebookNode) -> str:
    """Of what cells say and show; JupyterLab adds to their metadata when it saves what nobody has touched."""
    content = [(cell.source, cell.get("outputs")) for cell in found.cells]
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _cells(old: nbformat.NotebookNode, tell: plain.Plain) -> Iterator[nbformat.NotebookNode]:
    """What becomes of a cell of the chapter: text in plain words, cut where a method stands as a cell of its own."""
    if old.cell_type == "code":
        yield _code(old)
        return
    for words, name in _cut(tell.measured(old.source)):
        if words.strip():
            yield nbformat.v4.new_markdown_cell(tell(words))
        if name:
            yield nbformat.v4.new_code_cell(f"%%method {name}\n{sources.source_of(name).text}")


def _cut(myst: str) -> Iterator[tuple[str, str]]:
    """Pieces of text, each with the definition that ``{code-of}`` shows behind it; "" behind the last."""
    start = 0
    for found in plain.DIRECTIVE.finditer(myst):
        if found[3] == "code-of" and not found[1]:
            yield myst[start : found.start()], found[4].strip()
            start = found.end()
    yield myst[start:], ""


def _code(old: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A code cell with the book's outputs, folded where the website folds it."""
    tags = old.metadata.get("tags", [])
    parts = {part for tag in tags for part in HIDDEN.get(tag, [])}
    if ".publish(" in old.source:  # below it the run is shown beside the book's
        parts.discard("outputs")
    metadata: dict[str, Any] = {"tags": ["parameters"]} if "parameters" in tags else {}
    if parts:
        metadata["jupyter"] = {f"{part}_hidden": True for part in sorted(parts)}
    outputs = [output for output in executed.visible(old.get("outputs", [])) if _for_readers(output)]
    cell = nbformat.v4.new_code_cell(old.source, outputs=outputs, execution_count=old.get("execution_count"))
    cell.metadata = nbformat.from_dict(metadata)
    return cell


def _for_readers(output: nbformat.NotebookNode) -> bool:
    """Neither a text that the prose quotes, nor a message of the machine."""
    return "scrapbook" not in output.get("metadata", {}) and output.get("name") != "stderr"


def _set_up(slug: str, source: str) -> str:
    """The first cell's code, with the committed or fresh numbers of every profile."""
    found = [(profile, press.measured(slug, profile)) for profile in chapters.PROFILES]
    lines = []
    for profile, seen in found:
        if seen:
            book = {name: (m["mean"], m["sd"], len(m["values"])) for name, m in sorted(seen.metrics.items())}
            lines.append(f"    {profile}={book!r},\n")
    return SET_UP.format(source=source, books="".join(lines))
