"""The one exception that the press shows to people: a message, no traceback."""

from __future__ import annotations

import errno
from difflib import SequenceMatcher
from typing import NoReturn

LIKE = 0.5  # of 1: names that are less like each other are no slip of the pen
MANY = 20  # as many names may stand in a message


class PressError(Exception):
    """Something that the reader of the message can put right: says what was wrong, where, and what to do."""


_REMEDY = {
    errno.ENOSPC: "free some space and run again; what was finished before is kept",
    errno.EDQUOT: "free some space and run again; what was finished before is kept",
    errno.EROFS: "the file system is read-only; work on a writable copy of the tree",
    errno.EACCES: "give yourself the right to write there, or work on another copy of the tree",
    errno.EPERM: "give yourself the right to write there, or work on another copy of the tree",
}


def cannot(doing: str, path: object, error: OSError) -> NoReturn:
    """Raise the one-line message for an operating-system error while `doing` something with `path`."""
    remedy = _REMEDY.get(error.errno or 0, "put that right and run again")
    raise PressError(f"cannot {doing} {path}: {error.strerror or error}; {remedy}") from error


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """The tail of a message on an unknown name: " Did you mean 'feddf'? Known: ...". A name that is unlike all has no
    such question, and of many known ones only the four nearest are listed.
    """
    if not known:
        return " There is none yet."

    def likeness(other: str) -> float:
        return SequenceMatcher(None, name.lower(), other.lower()).ratio()

    best = max(known, key=likeness)
    question = f" Did you mean {best!r}?" if likeness(best) >= LIKE else ""
    if len(known) <= MANY:
        return f"{question} Known: {', '.join(known)}."
    return f"{question} Of {len(known)} known, the nearest: {', '.join(sorted(known, key=likeness, reverse=True)[:4])}."
