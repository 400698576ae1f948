"""The website's side of the book: Sphinx extensions that draw pages from sources, runs and evidence."""

from __future__ import annotations

from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

EXTENSIONS = (
    "offline",
    "languages",
    "rebuild",
    "executed",
    "notebooks",
    "card",
    "in_short",
    "ledger",
    "evidence",
    "quotes",
    "captions",
    "source",
    "equations",
    "mentions",
    "library",
    "overview",
    "concept_map",
    "benchmarks",
    "machines",
    "social",
    "finding",
    "words",
    "explore",
    "symbols",
    "mathematics",
    "lighter",
)


def setup(app: Sphinx) -> dict[str, Any]:
    """Load every extension of this package (``book.site`` is the one name that ``_config.yml`` needs)."""
    for name in EXTENSIONS:
        import_module(f"{__name__}.{name}").setup(app)
    return {"env_version": own_version(), "parallel_read_safe": False, "parallel_write_safe": True}


def own_version() -> int:
    """Changes with any edit of this package: pages that an older version drew are then drawn again."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return int(sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8], 16)
