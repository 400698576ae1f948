"""What the press notes about each run, beside the executed notebook."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from typing import Any

from book import chapters, files, parameters
from book.errors import PressError

Record = dict[str, Any]
EXACT = ("float32", "float64")  # types in which every product is computed as the type says
EVIDENCE = "application/vnd.fedlib.evidence+json"


def digest(content: Mapping[str, Any]) -> str:
    """Checksum of everything in a record or in evidence but the checksum itself."""
    kept = {name: value for name, value in content.items() if name != "digest"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def read(slug: str, stem: str) -> Record | None:
    """The record of the last run, failed or not; None when there is none, or not as :func:`write` left it."""
    try:
        record = files.read_json(chapters.record_path(slug, stem))
    except PressError:
        record = None
    whole = isinstance(record, dict) and record.get("digest") == digest(record)
    return record if whole else None  # damaged or edited by hand: as good as none, the chapter is run again


def write(slug: str, stem: str, record: Record) -> None:
    """Put a record in place, with its checksum."""
    files.write_json(chapters.record_path(slug, stem), record | {"digest": digest(record)})


def belongs(record: Record, slug: str, stem: str) -> bool:
    """Whether a record is that of this chapter's run of this name, and not a copy of another one's."""
    told, part = record.get("parameters", {}), record.get("part")
    given = {name: value for name, value in told.items() if name != "profile"}
    name = parameters.stem(str(record.get("profile")), given, part and tuple(part))
    return (record.get("slug"), told.get("profile"), name) == (slug, record.get("profile"), stem)


def published(notebook: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an executed chapter published: the last output that carries evidence, None when there is none."""
    outputs = [o for c in notebook["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
    found = [o["data"][EVIDENCE] for o in outputs if EVIDENCE in o.get("data", {})]
    return dict(found[-1]) if found else None


def narrowed(facts: Mapping[str, Any]) -> str:
    """In which precision narrower than its types a run computed, from its provenance; empty when in none."""
    return ", ".join(name for name in (facts.get("precision") or "").split(", ") if name not in ("", *EXACT))


def good(record: Record | None) -> Record | None:
    """The record of the run that made the notebook that lies there now: the last one that did not fail."""
    if record is None or record["status"] == "ok":
        return record
    return record.get("last_good")


def commit(slug: str) -> tuple[str | None, bool | None]:
    """Short id of the commit checked out, and whether what the chapter runs on differs from it (None without git)."""
    inputs = ["fedlib", str(chapters.chapter_path(slug)), "requirements.txt"]
    head = _git("rev-parse", "--short=12", "HEAD")
    changes = _git("status", "--porcelain", "--", *inputs)
    return (head, None) if head is None or changes is None else (head, bool(changes))


def checkout(*paths: str) -> tuple[str | None, list[str]]:
    """Full id of the commit checked out (None without git), and the files below `paths` that differ from it."""
    head = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--no-renames", "--untracked-files=all", "--", *paths) or ""
    return head, [line.split(maxsplit=1)[1].strip('"') for line in changes.splitlines()]


def _git(*arguments: str) -> str | None:
    call = ["git", "-C", str(chapters.ROOT), *arguments]
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
