"""Copy the executed notebooks for Colab: each with a first cell that installs the library it imports.

    python .github/colab.py DEST --source git+https://github.com/OWNER/REPOSITORY@COMMIT

Colab cannot open Markdown, so the notebooks live on a branch of their own, as DEST/<slug>.ipynb.
"""

import argparse
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
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
    executed = sorted((ROOT / "_build" / "executed").glob("*/quick.ipynb"))
    found = [
        path for path in executed if (ROOT / "papers" / path.parent.name / "chapter.md").exists()
    ]  # not a former one's
    if not found:
        sys.exit("colab.py: no executed notebook under _build/executed; run `make book` first")
    given.dest.mkdir(parents=True, exist_ok=True)
    for path in found:
        notebook = for_colab(nbformat.read(path, as_version=4), given.source)
        nbformat.write(notebook, given.dest / f"{path.parent.name}.ipynb")
    print(f"{len(found)} notebooks in {given.dest}")


if __name__ == "__main__":
    main()
