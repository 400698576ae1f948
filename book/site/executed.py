"""Outputs of executed notebooks, grafted onto the chapters' MyST sources when the site is built.

The source stays the document (edit and download links point at it), `_build/executed/<slug>/quick.ipynb` lends its
outputs. Cells are matched by what they do, so an edited comment moves nothing and an edited cell shows no output that
is not its own. A chapter that was never executed, is stale or failed carries a notice at the top of its page, and gives
a warning (`rebuild.py`).
"""

from __future__ import annotations

import re
from binascii import a2b_base64
from difflib import SequenceMatcher
from hashlib import sha256
from typing import Any

import nbformat
from docutils import nodes
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from book.site import elements, folded, press

LOG = logging.getLogger(__name__)
QUOTED = re.compile(r"\{glue:text\}`([^`:]+)")
HYPHEN = re.compile(r"(?<![\w.])-(?=\d)")  # before a number: a minus
GLUED = f"{press.GLUE_PREFIX}text/plain"
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/svg+xml")

# The reader is called with text only: what it must know, and what it learns, passes through here, one page at a time.
reading: dict[str, Any] = {"document": "", "alts": {}, "gaps": {}}


def read(text: str) -> nbformat.NotebookNode:
    """Reader for `nb_custom_formats`: a MyST page, with outputs where it is an executed chapter."""
    notebook = read_myst_markdown_notebook(text, add_source_map=True)
    slug = press.slug_of(reading["document"])
    if slug and is_myst_markdown_notebook(text):
        path = press.executed_path(slug)
        if path.exists():
            done = nbformat.read(path, as_version=4)
            reading["gaps"][reading["document"]] = graft(notebook, done)
            reading["alts"].update(alternatives(done))
        if press.state(slug).kind != "fresh":
            fill_gaps(notebook, text)
        folded.name(notebook)
        lead(notebook)
    return notebook


def lead(notebook: nbformat.NotebookNode) -> None:
    """Show what the cell tagged ``lead-output`` has put out before the first code: the answer of the page."""
    cells = code_cells(notebook)
    led = next((cell for cell in cells if "lead-output" in cell.metadata.get("tags", [])), None)
    if led is None or not led.get("outputs"):
        return
    shown = nbformat.v4.new_code_cell("# shown", outputs=led.outputs, metadata={"tags": ["remove-input"]})
    led.outputs = []
    place = notebook.cells.index(cells[0])
    notebook.cells.insert(place, shown)
    lines = notebook.metadata.source_map  # of each cell
    lines.insert(place, lines[place])


def graft(notebook: nbformat.NotebookNode, done: nbformat.NotebookNode) -> int:
    """Copy outputs from ``done`` to the cells of ``notebook`` that do the same; returns how many found no partner."""
    mine, theirs = code_cells(notebook), code_cells(done)
    here, there = [press.cell_digest(cell) for cell in mine], [press.cell_digest(cell) for cell in theirs]
    matcher = SequenceMatcher(a=here, b=there, autojunk=False)
    matched = 0
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            cell, source = mine[block.a + i], theirs[block.b + i]
            cell.outputs, cell.execution_count = visible(source.get("outputs", [])), source.get("execution_count")
            matched += 1
    return len(mine) - matched


def fill_gaps(notebook: nbformat.NotebookNode, text: str) -> None:
    """Let the prose of a draft say *not run* wherever it quotes a number that its outputs do not have."""
    cells = code_cells(notebook)
    known = {
        o.metadata.scrapbook.name for c in cells for o in c.get("outputs", []) if "scrapbook" in o.get("metadata", {})
    }
    for key in sorted(set(QUOTED.findall(text)) - known) if cells else []:
        data = {f"{press.GLUE_PREFIX}text/plain": repr("[not run]")}
        metadata = {"scrapbook": {"name": key, "mime_prefix": press.GLUE_PREFIX}}
        cells[0].setdefault("outputs", []).append(nbformat.v4.new_output("display_data", data, metadata=metadata))


def visible(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs without what is meant for the press alone (a run's evidence as JSON); its table stays.

    Numbers that the prose quotes get a true minus sign, as those of the tables have.
    """
    shown = []
    for output in outputs:
        if press.EVIDENCE in output.get("data", {}):
            data = {kind: content for kind, content in output.data.items() if kind != press.EVIDENCE}
            output = nbformat.from_dict({**output, "data": data})
        if GLUED in output.get("data", {}):
            data = {**output.data, GLUED: HYPHEN.sub("−", output.data[GLUED])}
            output = nbformat.from_dict({**output, "data": data})
        shown.append(output)
    return shown


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Code cells as the author wrote them: without the one that papermill injects."""
    return [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def alternatives(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Alternative texts of the notebook's images, by the sha256 under which myst-nb stores each image."""
    found = {}
    for cell in code_cells(notebook):
        for output in cell.get("outputs", []):
            data, metadata = output.get("data", {}), output.get("metadata", {})
            for kind in IMAGES:
                alt = metadata.get(kind, {}).get("alt") if isinstance(metadata.get(kind), dict) else None
                if kind in data and (alt or metadata.get("alt")):
                    content = data[kind]
                    raw = "\n".join(content.splitlines()).encode() if "svg" in kind else a2b_base64(content)
                    found[sha256(raw).hexdigest()] = str(alt or metadata["alt"])
    return found


def describe_images(app: Sphinx, doctree: nodes.document) -> None:
    """Give every image its alternative text; one without is a warning."""
    for image in doctree.findall(nodes.image):
        stem = image["uri"].rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if stem in reading["alts"]:
            image["alt"] = reading["alts"][stem]
        if not image.get("alt"):
            LOG.warning(
                "an image has no alternative text: pass `alt` in the output's metadata or to the directive",
                location=(app.env.docname, image.line),
                type="book",
                subtype="alt",
            )


def mark(app: Sphinx, doctree: nodes.document) -> None:
    """Put a notice under the title of a chapter whose outputs are not those of its present code."""
    slug = press.slug_of(app.env.docname)
    if not slug:
        return
    state = press.state(slug)
    if state.kind != "fresh":
        title = next(iter(doctree.findall(nodes.title)), None)
        place = title.parent if title is not None else doctree
        place.insert(1 if title is not None else 0, notice(slug, state))


def notice(slug: str, state: press.State) -> nodes.admonition:
    """The box that says, at the top of a draft page, what is wrong with it."""
    box = nodes.admonition(classes=["warning", "draft-notice", f"draft-{state.kind}"])
    box += nodes.title("", f"Draft: {state.words}")
    consequence = {
        "never": "This page has text and code, but no results yet.",
        "stale": "Results below come from earlier code; cells that have changed since show none.",
        "failed": "Results below, if any, come from an earlier run that finished.",
    }[state.kind]
    if state.kind != "never":
        box += elements.paragraph(elements.code(state.detail))
    box += elements.paragraph(f"{consequence} To mend it:")
    box += elements.command(f"make run P={slug}")
    return box


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """A chapter that the press calls fresh must have found an output cell for each of its own."""
    for document, gaps in reading["gaps"].items():
        slug = press.slug_of(document)
        if gaps and slug and press.state(slug).kind == "fresh":
            text = f"{document}: {gaps} code cells have no counterpart in {press.executed_path(slug)}; run it again"
            LOG.warning("%s", text, location=document, type="book", subtype="graft")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", lambda app, document, source: reading.update(document=document))
    app.connect("env-updated", check)
    app.connect("doctree-read", describe_images)
    app.connect("doctree-read", mark)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
