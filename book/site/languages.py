"""The language of Chinese text, so that a screen reader changes its voice and a browser its font."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

# sphinx-design writes a folded box as <details>, and has no option for its language.
BOX = re.compile(r"<details(?=[^>]*>\s*<summary[^>]*>\s*(?:<[^>]*>\s*)*中文)")

BREAK = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])\n(?=[\u3000-\u9fff\uff00-\uffef])")


def join_lines(app: Sphinx, doctree: nodes.document) -> None:
    """A line break between two Chinese characters is no space."""
    for text in list(doctree.findall(nodes.Text)):
        if BREAK.search(text) and not isinstance(text.parent, nodes.literal_block):
            text.parent.replace(text, nodes.Text(BREAK.sub("", text)))


def mark_chinese(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Set ``lang`` on every folded box whose title is 中文, and on the whole text of a Chinese page."""
    if "body" in context:
        context["body"] = BOX.sub('<details lang="zh"', context["body"])
        if page.endswith("/zh"):
            context["body"] = f'<div lang="zh">{context["body"]}</div>'


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", join_lines)
    app.connect("html-page-context", mark_chinese)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
