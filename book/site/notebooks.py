"""The notebook editions of the chapters, shipped with the site as files to download (:mod:`book.edition`).

From a server the link saves the notebook. Where a page was opened from a file, in the archive of the site for one,
Chromium shows the JSON instead. It does save a zip, so each notebook comes as one, too.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from book.errors import PressError
from book.site import press

logger = logging.getLogger(__name__)
FOLDER = "notebooks"


def link(words: str, slug: str, document: str, ending: str = "") -> nodes.raw | None:
    """A link from a page to the chapter's notebook, or with ``.zip`` to its zip; None where it was never executed."""
    if not press.executed_path(slug).exists():
        return None
    up = "../" * document.count("/")
    text = f'<a class="reference external" href="{up}{FOLDER}/{slug}.ipynb{ending}" download>{escape(words)}</a>'
    return nodes.raw("", text, format="html")


def write(app: Sphinx, error: Exception | None) -> None:
    """The editions of all chapters that were executed."""
    if error is not None or app.builder.format != "html":
        return
    from book import edition  # it asks for the card, which asks for the links above

    folder = Path(app.outdir) / FOLDER
    folder.mkdir(exist_ok=True)
    for slug in press.slugs():
        if press.executed_path(slug).exists():
            try:
                text = edition.text(slug)
            except PressError as error:  # the page has the same fault, and has named its line
                logger.warning("no notebook edition: %s", error)
                continue
            (folder / f"{slug}.ipynb").write_text(text, encoding="utf-8")
            with ZipFile(folder / f"{slug}.ipynb.zip", "w", ZIP_DEFLATED) as packed:
                # no time of day: the same bytes each time
                packed.writestr(ZipInfo(f"{slug}.ipynb"), text, ZIP_DEFLATED)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
