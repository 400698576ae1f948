"""A chapter's parameters: names, defaults, and the check of what a rerunner asks for, before anything runs."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

from book import chapters
from book.errors import PressError, nearest

Literal = int | float | str | bool | None
_TYPES: dict[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Parameter:
    """Name, default, and what it takes: the default's type, or what an annotation such as `int | None` says."""

    name: str
    default: Literal
    takes: tuple[type, ...]  # empty: any literal
    optional: bool

    def describe(self) -> str:
        words = " or ".join([t.__name__ for t in self.takes] + ["None"] * self.optional)
        return words or "any literal"


def of(slug: str) -> dict[str, Parameter]:
    """Parameters of a chapter, in order. Raises PressError when its cell is missing or holds more than literals."""
    path = chapters.chapter_path(slug)
    cells = [c for c in chapters.code_cells(chapters.read(slug)) if "parameters" in chapters.tags(c)]
    if len(cells) != 1:
        raise PressError(f"{path}: exactly one code cell must carry the tag 'parameters', found {len(cells)}")
    try:
        lines = ast.parse(cells[0].source).body
    except SyntaxError as error:
        raise PressError(f"{path}, parameters cell, line {error.lineno}: {error.msg}") from error
    found = {}
    for line in lines:
        parameter = _parse(line, str(path))
        found[parameter.name] = parameter
    if "profile" not in found or not isinstance(found["profile"].default, str):
        raise PressError(f'{path}: the parameters cell must set profile, as in profile = "quick"')
    return found


def _parse(line: ast.stmt, path: str) -> Parameter:
    where = f"{path}, parameters cell, line {line.lineno}: {ast.unparse(line)!r}"
    if isinstance(line, ast.Assign) and len(line.targets) == 1:
        target, value, annotation = line.targets[0], line.value, None
    elif isinstance(line, ast.AnnAssign) and line.value is not None:
        target, value, annotation = line.target, line.value, ast.unparse(line.annotation)
    else:
        raise PressError(f"{where} is not an assignment; this cell holds lines such as alpha = 0.1 and nothing else")
    if not isinstance(target, ast.Name):
        raise PressError(f"{where} must assign to one name")
    try:
        default = ast.literal_eval(value)
    except ValueError:
        default = ...
    if default is not None and type(default) not in _TYPES.values():
        raise PressError(f"{where} must be an int, float, str, bool or None, so that -p and papermill can replace it")
    if annotation is None:
        takes: tuple[type, ...] = () if default is None else (type(default),)
        return Parameter(target.id, default, takes, optional=default is None)
    names = [n.strip() for n in annotation.split("|")]
    if unknown := [n for n in names if n not in (*_TYPES, "None")]:
        raise PressError(f"{where} is annotated with {unknown[0]!r}; int, float, str, bool and None are known")
    return Parameter(target.id, default, tuple(_TYPES[n] for n in names if n != "None"), optional="None" in names)


def check(slug: str, given: list[str], seeds: int | None = None) -> dict[str, Literal]:
    """Turn `-p name=value` texts and --seeds into values that differ from the chapter's defaults.

    Raises PressError for a text without "=", an unknown name (the nearest is named) or a value of another type.
    """
    known = of(slug)
    asked: dict[str, Literal] = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise PressError(f"-p {text!r}: expected name=value, as in -p alpha=0.1")
        if name == "profile":
            raise PressError("-p profile=...: choose the profile with --profile, as in --profile real")
        if name not in known:
            names = [n for n in known if n != "profile"]
            raise PressError(f"chapter {slug!r} has no parameter {name!r}.{nearest(name, names)}")
        asked[name] = _value(known[name], value.strip(), slug)
    if seeds is not None:
        if "seeds" not in known:
            raise PressError(f"chapter {slug!r} has no parameter 'seeds', so that --seeds cannot be set")
        if seeds < 1:
            raise PressError(f"--seeds {seeds}: at least one seed is needed")
        asked["seeds"] = seeds
    return {n: v for n, v in asked.items() if (type(v), v) != (type(known[n].default), known[n].default)}


def _value(parameter: Parameter, text: str, slug: str) -> Literal:
    """Read a value as the parameter's type would have it; a word without quotes is a string."""
    if text.lower() in ("none", "null") and parameter.optional:
        return None
    words: dict[str, Literal] = {"true": True, "false": False}
    try:
        value: Any = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    takes = parameter.takes
    if isinstance(value, float) and not math.isfinite(value):
        raise PressError(f"chapter {slug!r}, -p {parameter.name}={text}: expected a finite number")
    if not takes and type(value) in _TYPES.values():
        return value
    if type(value) in takes:
        return value
    if float in takes and type(value) is int:
        return float(value)
    if str in takes:  # 007 or None, where a text is wanted
        return text
    raise PressError(
        f"chapter {slug!r}, -p {parameter.name}={text}: expected {parameter.describe()} "
        f"(default {parameter.default!r}), got {type(value).__name__}"
    )


def stem(profile: str, overrides: dict[str, Literal], part: tuple[int, int] | None = None) -> str:
    """Name of a run's files: the profile, then a digest of the parameters when they are not the defaults, then the
    share of the seeds when it has not all of them.
    """
    name = profile
    if overrides:
        name += f"-{hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:8]}"
    return name if part is None else f"{name}-{part[0]}of{part[1]}"


def grid(given: list[str]) -> list[list[str]]:
    """Every combination of the values that `-p name=value` gives: one list of texts for each, each name once.

    A name that is given several times takes each of its values in turn: `-p a=1 -p a=2 -p b=3` are two runs.
    """
    values: dict[str, dict[str, None]] = {}
    for text in given:
        values.setdefault(text.partition("=")[0].strip(), {})[text] = None
    return [list(texts) for texts in itertools.product(*values.values())]
