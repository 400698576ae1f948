"""One press at a time on one thing: a chapter's run, or the website.

The lock is one of the operating system on an open file, so that it ends with the process that holds it, however
that ends. Who holds it stands in a file beside it, for the message to those who wait.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from book import chapters, files
from book.errors import PressError, cannot


def _paths(name: str) -> tuple[Path, Path]:
    folder = chapters.build_folder() / "locks"
    return folder / f"{name}.lock", folder / f"{name}.holder"


def holder(name: str) -> str:
    """Who holds the lock, in words: "pid 1234, since 10:03:22 (run feddf)"."""
    with suppress(OSError, ValueError):
        if text := _paths(name)[1].read_text(encoding="utf-8").strip():
            return text
    return "another press"


@contextmanager
def hold(name: str, doing: str, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock. When it is taken, tell `waiting` who has it and wait; without `waiting`, raise PressError."""
    path, who = _paths(name)
    files.make_folder(path.parent)
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is None:
                raise PressError(f"cannot {doing} now: {holder(name)} is at work; let it end, or stop it") from None
            waiting(f"waits for {holder(name)}")
            lock.acquire()
    except OSError as error:  # Timeout is one, too, but has been dealt with
        cannot("lock", path, error)
    try:
        with suppress(OSError):  # only the message to others needs it
            who.write_text(f"pid {os.getpid()}, since {dt.datetime.now():%H:%M:%S} ({doing})\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            who.unlink(missing_ok=True)
        lock.release()


@contextmanager
def hold_all(doing: str) -> Iterator[None]:
    """Hold every lock of the tree, for work that no run may see. Raises PressError when one is taken."""
    names = sorted(p.stem for p in (chapters.build_folder() / "locks").glob("*.lock"))
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(hold(name, doing))
        yield
