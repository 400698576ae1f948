"""A throw-away book of one chapter and one page, built by Sphinx in this process."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import nbformat
import yaml
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from book import chapters, files, freshness, records

PNG_TEXT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PNG = base64.b64decode(PNG_TEXT)

CHAPTER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A miniature

```{card}
```

```{code-cell} ipython3
:tags: [parameters]

profile = "quick"
```

```{code-cell} ipython3
1 + 1  # two
```

```{code-cell} ipython3
from fedlib.losses import squared
```

The sum is {glue:text}`mini-sum`.

```{code-of} fedlib.losses.squared
:test: tests/unit/test_losses.py::test_squared
```

```{claims}
```

```{evidence} quick
```

```{evidence} full
```

```{dropdown} 中文
两句话。
```
"""

HOME = """# Home

```{reading-log}
```

```{parts}
```

```{status}
```

```{claims} summary
```

```{toctree}
:hidden:
papers/mini/chapter
```
"""

LOSSES = '''"""Losses."""


def squared(a, b):
    """The squared difference.

    A docstring, which the page leaves out.
    """

    difference = a - b
    return difference**2
'''

CARD: dict[str, Any] = {
    "slug": "mini",
    "entry": 1,
    "title": "A miniature",
    "summary": "What a chapter is, as small as it can be.",
    "noted": ["2020-10-16"],
    "part": "Foundations",
    "tags": ["small"],
    "citation": "nobody2020",
    "authors": "Nobody",
    "venue": "Nowhere 2020",
    "links": {"paper": "https://example.org/paper"},
    "profiles": {name: {"seconds": 1, "memory_mb": 10} for name in ("smoke", "quick", "full")},
    "claims": [
        {
            "id": "large",
            "kind": "primary",
            "statement": "It is large.",
            "source": "Table 1",
            "paper": "1.5",
            "metric": "size",
            "direction": "above",
            "least": 1.0,
            "unit": "metres",
            "profiles": ["quick", "full"],
        }
    ],
}

ENTRIES = [
    {"number": 1, "slug": "mini", "noted": "2020-10-16", "heading": "The first", "paper": "P", "part": "Foundations"},
    {
        "number": 2,
        "slug": "later",
        "noted": "2021-01-02",
        "heading": "The second",
        "paper": "P",
        "part": "Distillation",
    },
]


class Book:
    """A book of one chapter and one page in a temporary folder."""

    def __init__(self, root: Path):
        self.root = root
        self.write("papers/mini/chapter.md", CHAPTER)
        self.write("papers/mini/paper.yml", yaml.safe_dump(CARD))
        self.write("book/entries.yml", yaml.safe_dump(ENTRIES))
        self.write("index.md", HOME)
        self.write("fedlib/losses.py", LOSSES)
        self.write("tests/unit/test_losses.py", "def test_squared():\n    assert True\n")
        self.write("requirements.txt", "")
        self.write("book/references.bib", "@misc{nobody2020, author = {Nobody}, title = {Nothing}, year = {2020}}\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def execute(self, status: str = "ok", output: str | dict[str, Any] = "2") -> None:
        """Leave what a run of the chapter would leave."""
        notebook = chapters.read("mini")
        notebook.cells.insert(
            1, nbformat.v4.new_code_cell("profile = 'quick'", metadata={"tags": ["injected-parameters"]})
        )
        cell = next(c for c in notebook.cells if c.source.startswith("1 + 1"))
        if isinstance(output, str):
            output = {"data": {"text/plain": output}}
        prefix = "application/papermill.record/"
        glue = {"data": {f"{prefix}text/plain": "'exactly two'"}}
        glue["metadata"] = {"scrapbook": {"name": "mini-sum", "mime_prefix": prefix}}
        evidence = {
            "profile": "quick",
            "seeds": [0, 1, 2],
            "metrics": {"size": {"0": 1.5, "1": 1.6, "2": 1.7}},
            "modules": ["fedlib.losses"],
            "data": {},
            "device": "cpu",
            "processor": "cpu of this test",
            "executors": {},
            "versions": {"python": "3.11"},
            "peak_memory_mb": 10.0,
            "glue": {},
        }
        published = {"data": {records.EVIDENCE: evidence, "text/html": "<p>published</p>"}}
        cell.outputs = [nbformat.v4.new_output("display_data", **content) for content in (output, glue, published)]
        path = chapters.executed_path("mini", "quick")
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, path)
        dependencies = freshness.Sources.take("mini").dependencies({"profile": "quick"}, ["fedlib.losses"], {})
        record = {
            "slug": "mini",
            "profile": "quick",
            "parameters": {"profile": "quick"},
            "status": status,
            "error": {"type": "ValueError", "message": "it broke"} if status == "failed" else None,
            "dependencies": dependencies,
            "hash": freshness.digest(dependencies),
            "packs": {},
            "commit": "0123456789ab",
            "dirty": False,
            "finished": "2026-01-02T03:04:05+00:00",
            "threads": "1",
            "seconds": 1.0,
            "peak_memory_mb": 10.0,
            "evidence": evidence,
            "last_good": None,
            "notebook_sha256": files.sha256(path),
        }
        records.write("mini", "quick", record)

    def build(self) -> tuple[dict[str, str], str]:
        """Pages by name, and what Sphinx warned of."""
        warnings = io.StringIO()
        options = {
            "extensions": ["myst_nb", "sphinx_design", "book.site"],
            "nb_execution_mode": "off",
            "nb_custom_formats": {".md": "book.site.executed.read"},
            "exclude_patterns": ["_build"],
            "suppress_warnings": ["config.cache"],
            "html_theme": "basic",
        }
        html, trees = str(self.root / "_build" / "html"), str(self.root / "_build" / "doctrees")
        with docutils_namespace(), patch_docutils(str(self.root)):
            Sphinx(str(self.root), None, html, trees, "html", options, status=None, warning=warnings).build()
        out = self.root / "_build" / "html"
        pages = {str(path.relative_to(out)): path.read_text(encoding="utf-8") for path in out.rglob("*.html")}
        return pages, re.sub(r"\x1b\[[0-9;]*m", "", warnings.getvalue())


PAGE = "papers/mini/chapter.html"


def text_of(html: str) -> str:
    """The words of a page."""
    inline = re.sub(r"</?(span|code|a)\b[^>]*>", "", html)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", inline))
