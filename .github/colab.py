"""Copy the executed notebooks for Colab: each with a first cell that installs the library it imports.

    python .github/colab.py DEST --source git+https://github.com/OWNER/REPOSITORY@COMMIT

Colab cannot open Markdown, so the notebooks live on a branch of their own, as DEST/<slug>.ipynb.
"""

import argparse
import sys
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from book.site import notebooks, press  # noqa: E402

INSTALL = """\
# Only where the library is not there yet, as on Colab.
import importlib.util

if importlib.util.find_spec("fedlib") is None:
    %pip install --quiet "fedlib @ {source}"
"""


def for_colab(notebook: nbformat.NotebookNode, source: str) -> nbformat.NotebookNode:
    """The notebook with the installing cell in front; papermill's own cells stay, they tell the parameters."""
    cell = nbformat.v4.new_code_cell(INSTALL.format(source=source).rstrip(), id="install-fedlib")
    notebook.cells.insert(0, cell)
    nbformat.validate(notebook)
    return notebook


def main() -> None:
    """Copy every chapter's quick run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dest", type=Path)
    parser.add_argument("--source", required=True, help="what pip installs fedlib from")
    given = parser.parse_args()
    found = [slug for slug in press.slugs() if press.executed_path(slug).exists()]
    if not found:
        sys.exit("colab.py: no executed notebook under _build/executed; run `make book` first")
    site = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["html"]["baseurl"]
    given.dest.mkdir(parents=True, exist_ok=True)
    for slug in found:
        nbformat.write(for_colab(notebooks.shipped(slug, site), given.source), given.dest / f"{slug}.ipynb")
    print(f"{len(found)} notebooks in {given.dest}")


if __name__ == "__main__":
    main()
