"""Nothing on a page may be fetched from elsewhere.

jupyter-book always loads sphinx-thebe, whose script comes from a CDN when a reader presses a button; this book has no
such button. Formulas are typeset when the book is built (`mathematics.py`).
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Remove thebe's scripts and styles from a page."""
    context["script_files"] = [file for file in context.get("script_files", []) if not _is_thebe(file)]
    context["css_files"] = [file for file in context.get("css_files", []) if not _is_thebe(file)]


def _is_thebe(file: Any) -> bool:
    body = str(getattr(file, "attributes", {}).get("body", ""))
    return "thebe" in body.lower() or "thebe" in str(getattr(file, "filename", file) or "").lower()


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", drop_thebe, priority=950)  # after every extension has added its files
    return {"parallel_read_safe": True, "parallel_write_safe": True}
