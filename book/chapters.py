"""Where everything lies in the tree, and how a chapter is read."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from book.errors import PressError, cannot, nearest

ROOT = Path(os.environ.get("FEDBOOK_ROOT") or Path(__file__).parents[1]).resolve()
PROFILES = ("smoke", "quick", "real", "full")
HOMES = ("papers", "book/pages")  # folders of chapters, and of pages that are executed like one
SECTIONS = [
    "In short",
    "What the note asks",
    "Method",
    "Experiment",
    "Claims",
    "On real data, and at the paper's scale",
    "Deviations",
    "Try it",
    "References",
]  # of every chapter, in this order


def use_root(path: Path) -> None:
    """Work on another tree from now on; child processes are told through the environment."""
    global ROOT
    ROOT = path.resolve()
    os.environ["FEDBOOK_ROOT"] = str(ROOT)


def build_folder() -> Path:
    """Everything that the press makes and git ignores."""
    return ROOT / "_build"


def folder(slug: str) -> Path:
    """Where all that belongs to a chapter lies; for a new one, among the papers."""
    places = [ROOT / home / slug for home in HOMES]
    return next((place for place in places if (place / "chapter.md").exists()), places[0])


def chapter_path(slug: str) -> Path:
    return folder(slug) / "chapter.md"


def card_path(slug: str) -> Path:
    return folder(slug) / "paper.yml"


def evidence_path(slug: str, profile: str) -> Path:
    """The committed reference of one profile."""
    return folder(slug) / "evidence" / f"{profile}.json"


def golden_path(slug: str) -> Path:
    return ROOT / "tests" / "golden" / f"{slug}.ipynb"


def executed_path(slug: str, profile: str) -> Path:
    """The executed notebook. For a run with other parameters, `profile` is its stem, such as quick-1a2b3c4d."""
    return build_folder() / "executed" / slug / f"{profile}.ipynb"


def record_path(slug: str, profile: str) -> Path:
    """What the press noted about the run that made (or failed to make) the executed notebook."""
    return executed_path(slug, profile).with_suffix(".json")


def slugs() -> list[str]:
    """Slugs of all chapters and executed pages, in alphabetical order: folders with a source or a card."""
    names = ("chapter.md", "paper.yml")
    return sorted({p.parent.name for home in HOMES for name in names for p in (ROOT / home).glob(f"*/{name}")})


def require(slug: str) -> str:
    """The slug itself. Raises PressError naming the nearest one when there is no such chapter."""
    if slug not in slugs():
        raise PressError(f"there is no chapter {slug!r} in {ROOT / 'papers'}.{nearest(slug, slugs())}")
    return slug


def require_profile(profile: str) -> str:
    """The profile itself. Raises PressError naming the nearest one when there is no such profile."""
    if profile not in PROFILES:
        raise PressError(f"there is no profile {profile!r}.{nearest(profile, PROFILES)}")
    return profile


def read(slug: str) -> Any:
    """The chapter as a notebook (nbformat node), with cell ids that are the same every time."""
    path = chapter_path(require(slug))
    try:
        stat = path.stat()
    except OSError as error:
        cannot("read", path, error)
    from copy import deepcopy

    return deepcopy(_read(path, stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _read(path: Path, mtime_ns: int, size: int) -> Any:
    import jupytext  # slow to import, and not wanted by commands that read no chapter

    try:
        notebook = jupytext.read(path, fmt="md:myst")
        if not path.read_text(encoding="utf-8").startswith("---\n"):
            raise ValueError("it does not begin with its front matter, a line of ---")
    except Exception as error:  # jupytext raises whatever its parsers raise
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise PressError(f"{path} cannot be read as a MyST notebook: {line}") from error
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:03d}"
    return notebook


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def code_cells(notebook: Any) -> list[Any]:
    """The cells that the chapter's author wrote, without the one in which papermill injects parameters."""
    return [c for c in notebook.cells if c.cell_type == "code" and "injected-parameters" not in tags(c)]
