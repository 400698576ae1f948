"""The one exception that the press shows to people: a message, no traceback."""

from __future__ import annotations

import errno
from difflib import SequenceMatcher
from typing import NoReturn


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
    """The known name most like `name`, as the tail of a message: " Did you mean 'feddf'? Known: ..."."""
    if not known:
        return " There is none yet."
    best = max(known, key=lambda k: SequenceMatcher(None, name.lower(), k.lower()).ratio())
    return f" Did you mean {best!r}? Known: {', '.join(known)}."
