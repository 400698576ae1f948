"""`clean`: delete what the press has made, by name; nothing behind a link, nothing that others put there."""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from book import chapters, locking
from book.errors import PressError, cannot

# What the press, the website's pages, the benchmarks and the workflows leave in _build, and can make again at any time.
BUILT = (
    *(
        "html",
        "new-site",
        "old-site",
        "site.json",
        "site.log",
        "parsed.json",
        "findings",
        "colab",
        "editions",
        "editions.json",
        "fedlib-book.zip",
        "fedlib-book.pdf",
    ),
    *("progress", "benchmarks", "full-evidence.patch", "cluster-*", ".*.part"),
)
EXECUTED = ("executed", "resume")  # hours of work, perhaps
LOCKS = "locks"  # stays: a lock that is deleted is no lock to those who hold it


def clean(everything: bool = False) -> list[Path]:
    """Delete what was built, with ``everything`` executed chapters and kept partial results, too. Returns what is in
    the folder and was not made by the press; that stays.

    Raises PressError, before anything is deleted, when the folder or something to be deleted in it is a link, or a
    press is at work.
    """
    folder = chapters.build_folder()
    _no_link(folder)
    if not folder.exists():
        return []
    with locking.hold_all("clean"):
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            cannot("read", folder, error)
        names = BUILT + (EXECUTED if everything else ())
        doomed = [path for path in found if any(fnmatchcase(path.name, name) for name in names)]
        for path in doomed:
            _no_link(path)
        for path in doomed:
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError as error:
                cannot("delete", error.filename or path, error)
    return [path for path in found if path not in doomed and path.name not in (*EXECUTED, LOCKS)]


def _no_link(path: Path) -> None:
    if path.is_symlink():
        raise PressError(
            f"{path} is a link to {path.readlink()}; clean deletes nothing behind a link, and has deleted nothing: "
            f"remove the link, or what it leads to, yourself"
        )
