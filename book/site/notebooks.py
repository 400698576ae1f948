"""The executed notebooks, shipped with the site: downloads that work from a server, from a file and in the archive."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from sphinx.application import Sphinx

from book.site import executed, press

FOLDER = "notebooks"


def link(words: str, slug: str, document: str) -> nodes.raw | None:
    """A link from a page that saves the chapter's notebook; None where the chapter was never executed."""
    if not press.executed_path(slug).exists():
        return None
    up = "../" * document.count("/")
    text = f'<a class="reference external" href="{up}{FOLDER}/{slug}.ipynb" download>{escape(words)}</a>'
    return nodes.raw("", text, format="html")


def shipped(slug: str) -> nbformat.NotebookNode:
    """The quick run as the page shows it: without what is for the press alone, and without messages of the machine."""
    notebook = nbformat.read(press.executed_path(slug), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = executed.visible(cell.outputs)
            cell.outputs = [output for output in shown if output.get("name") != "stderr"]
    nbformat.validate(notebook)
    return notebook


def write(app: Sphinx, error: Exception | None) -> None:
    """The notebooks of all chapters that were executed."""
    if error is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(exist_ok=True)
    for slug in press.slugs():
        if press.executed_path(slug).exists():
            nbformat.write(shipped(slug), folder / f"{slug}.ipynb")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
