"""The language of the folded Chinese boxes, so that a screen reader changes its voice and a browser its font."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

# sphinx-design writes a folded box as <details>, and has no option for its language.
BOX = re.compile(r"<details(?=[^>]*>\s*<summary[^>]*>\s*(?:<[^>]*>\s*)*中文)")


def mark_chinese(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Set ``lang`` on every folded box whose title is 中文."""
    if "body" in context:
        context["body"] = BOX.sub('<details lang="zh"', context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", mark_chinese)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
