"""Whether the definitions of fedlib are those of its files, however something else came in their place.

Needs nothing but the standard library. What stands in a module or a class of fedlib must come from a file of fedlib,
or from a library; a cell of a notebook is neither.
"""

from __future__ import annotations

import site
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_INNER = ("__func__", "fget", "fset", "func", "__wrapped__")  # where wrappers keep what they wrap


def changed() -> list[str]:
    """Names of functions and members in loaded modules of fedlib that come from elsewhere."""
    found: set[str] = set()
    for module in _modules():
        for name, thing in list(vars(module).items()):
            if isinstance(thing, type) and _ours(thing):
                if thing.__module__ == module.__name__:  # where it is defined; elsewhere it is only imported
                    found.update(_members(thing))
            elif _foreign(thing):
                found.add(_name(thing, f"{module.__name__}.{name}"))
    return sorted(found)


def _members(thing: type) -> Iterator[str]:
    place = f"{thing.__module__}.{thing.__qualname__}"
    for name, member in list(vars(thing).items()):
        if isinstance(member, type) and _ours(member):
            if member.__qualname__ == f"{thing.__qualname__}.{name}":
                yield from _members(member)
        elif _foreign(member) and not _generated(name, member):
            yield _name(member, f"{place}.{name}")


def _ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == "fedlib"


def _modules() -> list[ModuleType]:
    return [m for n, m in list(sys.modules.items()) if n.partition(".")[0] == "fedlib" and isinstance(m, ModuleType)]


def _name(thing: Any, place: str) -> str:
    """Under which name it is to be told: its own where it has one in fedlib, else that of its place."""
    own = next((f for f in _functions(thing) if _ours(f)), None)
    return f"{own.__module__}.{own.__qualname__}" if own else place


def _foreign(thing: Any) -> bool:
    if isinstance(thing, ModuleType):
        return False
    if "__main__" in (getattr(thing, "__module__", None), type(thing).__module__):
        return True
    return any(not _trusted(f.__code__, _root()) for f in _functions(thing))


def _functions(thing: Any) -> list[FunctionType]:
    """A function, and those that it wraps."""
    found: list[FunctionType] = []
    todo = [thing]
    while todo and len(found) < 9:
        one = todo.pop()
        if isinstance(one, FunctionType):
            found.append(one)
        if isinstance(one, FunctionType | property | classmethod | staticmethod | partial) or hasattr(
            one, "__wrapped__"
        ):
            todo += [inner for part in _INNER if (inner := getattr(one, part, None)) is not None]
    return found


def _generated(name: str, member: Any) -> bool:
    """Whether it is a method that a dataclass or a named tuple writes for itself."""
    files = {f.__code__.co_filename for f in _functions(member) if not _trusted(f.__code__, _root())}
    return name.startswith("__") and files == {"<string>"}


@cache
def _root() -> tuple[str, ...]:
    """Where files of fedlib and of libraries are."""
    paths = sysconfig.get_paths()
    known = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    own = Path(__file__).parent
    return tuple(f"{path}/" for path in {*known, *site.getsitepackages(), site.getusersitepackages(), str(own)})


@cache
def _trusted(code: CodeType, roots: tuple[str, ...]) -> bool:
    return code.co_filename.startswith(("<frozen ", *roots))
