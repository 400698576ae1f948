"""The website: built beside the last one with Jupyter Book, put in its place when it is whole, and served."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import Any

from book import cards, chapters, checks, contents, files, freshness, jobs, locking, reference
from book.errors import PressError, cannot

_SOURCES = ("papers", "book", "fedlib", "benchmarks", "tests", "data")
_FILES = (
    "_config.yml",
    "_toc.yml",
    "requirements.txt",
    "README.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "pyproject.toml",
)
_PROBLEM = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|\bError:|Exception")
_JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"  # it has no __main__
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def index_page() -> Path:
    return chapters.build_folder() / "html" / "index.html"


def unpublishable() -> list[str]:
    """Chapters whose quick run or committed evidence may not be published, each with the reason."""
    found = []
    for slug in chapters.slugs():
        try:
            reasons = [freshness.why(slug, "quick")]
            for profile in reference.PROFILES:
                if evidence := reference.committed(slug, profile):
                    reasons += [f"{profile}, {text}" for text in checks.faults(cards.load(slug), evidence)]
        except PressError as error:
            reasons = [str(error)]
        found += [f"{slug}: {reason}" for reason in reasons if reason]
    return found


def _inputs() -> Iterator[Path]:
    """Every file that can change a page."""
    for folder in _SOURCES:
        for base, names, found in os.walk(chapters.ROOT / folder):
            names[:] = sorted(n for n in names if n not in ("__pycache__", "cache", ".ipynb_checkpoints"))
            yield from (Path(base) / name for name in sorted(found) if not name.endswith((".pyc", ".part")))
    yield from (path for name in _FILES if (path := chapters.ROOT / name).exists())
    for slug in chapters.slugs():
        for profile in chapters.PROFILES:
            pair = (chapters.executed_path(slug, profile), chapters.record_path(slug, profile))
            yield from (path for path in pair if path.exists())


def inputs_digest(draft: bool) -> str:
    """Hash of all that the website is made of."""
    total = hashlib.sha256(f"draft {draft}".encode())
    for path in _inputs():
        total.update(f"{path.relative_to(chapters.ROOT)} {files.sha256(path)}\n".encode())
    return total.hexdigest()


def build(draft: bool = False) -> tuple[Path, bool]:
    """Build the website unless nothing has changed. Returns its first page and whether it was built.

    Raises PressError when a chapter was never executed, is stale or failed (not with `draft`, where pages
    say so themselves), when a page and the table of contents do not know each other, and when Sphinx warns or
    fails; the last good website then stays where it is.
    """
    restore()
    if lost := contents.problems():
        raise PressError("\n".join(["not built:", *(f"  {line}" for line in lost)]))
    if not draft and (problems := unpublishable()):
        listed = "\n".join(f"  {p}" for p in problems)
        raise PressError(f"not published:\n{listed}\nrun `python -m book run`, or build with --draft")
    stamp = chapters.build_folder() / "site.json"
    with locking.hold("site", "build the website", lambda text: print(text, flush=True)):
        digest = inputs_digest(draft)
        try:
            built = files.read_json(stamp) or {}
        except PressError:
            built = {}
        if isinstance(built, dict) and built.get("inputs") == digest and index_page().exists():
            return index_page(), False
        made = _sphinx(draft)
        _put_in_place(made, stamp)
        files.write_json(stamp, {"inputs": digest, "draft": draft})
    return index_page(), True


# Jupyter Book's own forwarding page has no language, no title, nothing to click, and no icon: browsers miss that.
def _sphinx(draft: bool) -> Path:
    """Run Jupyter Book into a folder beside the website and return it."""
    aside = chapters.build_folder() / "new-site"
    shutil.rmtree(aside, ignore_errors=True)
    call = [
        sys.executable,
        "-c",
        _JUPYTER_BOOK,
        "build",
        str(chapters.ROOT),
        "--path-output",
        str(aside),
    ]
    call += ["--all", "-q"] + ([] if draft else ["-W", "--keep-going"])
    env = jobs.child_environment(1) | {"FEDBOOK_DRAFT": "1" if draft else "", "MPLBACKEND": "agg"}
    done = subprocess.run(
        call,
        cwd=chapters.ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    log = _COLOURS.sub("", done.stdout)
    log_path = chapters.build_folder() / "site.log"
    files.write(log_path, log)
    made = aside / "_build" / "html"
    if done.returncode != 0 or not (made / "index.html").exists():
        if done.returncode < 0:
            log += f"\nError: Sphinx was ended by {jobs.signal_name(-done.returncode)}"
        lines = list(dict.fromkeys(line.strip() for line in log.splitlines() if _PROBLEM.search(line)))
        shown = "\n".join(f"  {line}" for line in (lines or log.splitlines())[-40:])
        raise PressError(f"the website was not built (the last good one is kept):\n{shown}\nfull log: {log_path}")
    front = Template((chapters.ROOT / "book" / "templates" / "redirect.html").read_text(encoding="utf-8"))
    (made / "index.html").write_text(front.substitute(to_uri="book/pages/index.html"), encoding="utf-8")
    return made


def _put_in_place(made: Path, stamp: Path) -> None:
    """Exchange the website for a new one. No system does that in one step everywhere; whoever is ended between the two
    leaves the last one aside, where `restore` finds it.
    """
    site, old = index_page().parent, _aside()
    try:
        stamp.unlink(missing_ok=True)
    except OSError as error:
        cannot("replace", stamp, error)
    try:
        shutil.rmtree(old, ignore_errors=True)
        if site.exists():
            os.replace(site, old)
        os.replace(made, site)
    except OSError as error:
        if not site.exists() and old.exists():
            with suppress(OSError):
                os.replace(old, site)
        cannot("put in place", site, error)
    for leftover in (old, chapters.build_folder() / "new-site"):
        shutil.rmtree(leftover, ignore_errors=True)


def _aside() -> Path:
    return chapters.build_folder() / "old-site"


def restore() -> None:
    """Put the last website back where a press that was building the next one was ended before it had put it there."""

    def gone() -> bool:
        return not index_page().parent.exists() and (_aside() / "index.html").exists()

    if gone():
        with locking.hold("site", "put the last website back", lambda text: print(text, flush=True)):
            if gone():  # nobody was at it
                try:
                    os.replace(_aside(), index_page().parent)
                except OSError as error:
                    cannot("put back", index_page().parent, error)


def require() -> Path:
    """The first page of the built website. Raises PressError when there is none."""
    restore()
    if not index_page().exists():
        raise PressError(f"{index_page()} is missing; build the website first: python -m book build")
    return index_page()


class Server(http.server.ThreadingHTTPServer):
    """Serves on when a reader has closed the page before it was there."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(port: int, host: str = "127.0.0.1") -> Server:
    """A server of the website, ready to `serve_forever`. Raises PressError without a website or a free port."""
    if not 0 <= port <= 65535:
        raise PressError(f"--port {port}: a port is a number from 1 to 65535, or 0 for any that is free")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(require().parent))
    try:
        return Server((host, port), handler)
    except OSError as error:
        raise PressError(f"cannot serve on port {port}: {error.strerror}; choose another with --port") from error
