"""What can go wrong in a way that a person can put right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class BenchmarkError(Exception):
    """One line that says what to do."""


class Skipped(BenchmarkError):
    """Something is not measured here, and why."""


class Unknown(BenchmarkError):
    """A name that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        names = list(known)
        near = get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        super().__init__(f"there is no {kind} {name!r}{hint} Known are {', '.join(names)}")
