"""The parts of fedlib's modules, kept between processes: to take two hundred modules apart costs each some seconds.

What is kept counts for the very same text only, taken apart by the very same code, and only as it was written: a file
that is damaged, or that cannot be written, costs these seconds and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from book import definitions, files
from book.errors import PressError

NAME = "parsed.json"


@functools.cache
def _code() -> str:
    """What takes modules apart and keeps them: this Python's syntax trees, and the modules that read them."""
    readers = (Path(definitions.__file__), Path(__file__).with_name("freshness.py"), Path(__file__))
    return f"{sys.version_info[:2]} {[files.sha256(path) for path in readers]}"


def _plain(module: definitions.Module) -> dict[str, Any]:
    def plain(parts: list[definitions.Part]) -> list[list[Any]]:
        return [[part.digest, sorted(part.words), sorted(part.wholes), part.home] for part in parts]

    return {"always": plain(module.always), "definitions": {n: plain(p) for n, p in module.definitions.items()}}


def _module(kept: dict[str, Any]) -> definitions.Module:
    def parts(plain: list[list[Any]]) -> list[definitions.Part]:
        return [definitions.Part(digest, frozenset(w), frozenset(u), home) for digest, w, u, home in plain]

    named = {name: parts(plain) for name, plain in kept["definitions"].items()}
    return definitions.Module(parts(kept["always"]), defaultdict(list, named))


def _sum(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


class Shelf:
    """What is kept in ``folder``, and what came to it since."""

    def __init__(self, folder: Path):
        self.path, self.kept, self.grown = folder / NAME, dict[str, Any](), False
        with suppress(PressError):
            there = files.read_json(self.path)
            self.kept = there if isinstance(there, dict) else {}

    def module(
        self, name: str, source: bytes, about: Any, make: Callable[[], definitions.Module]
    ) -> definitions.Module:
        """The module of this text as ``make`` takes it apart, which ``about`` says what else it depends on."""
        key = hashlib.sha256(f"{_code()} {about!r} ".encode() + source).hexdigest()
        kept = self.kept.get(name)
        if isinstance(kept, dict) and kept.get("key") == key and kept.get("sum") == _sum(kept.get("parts")):
            return _module(kept["parts"])
        made = make()
        plain = _plain(made)
        self.kept[name], self.grown = {"key": key, "sum": _sum(plain), "parts": plain}, True
        return made

    def keep(self) -> None:
        """Write down what has come since, for other processes."""
        if self.grown:
            self.grown = False
            with suppress(PressError):
                files.write(self.path, json.dumps(self.kept))


@functools.cache
def shelf(folder: Path) -> Shelf:
    """The one of a folder of the press."""
    return Shelf(folder)
