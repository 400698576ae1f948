"""A chapter's source as its blocks: prose, code cells and directives, each with the line where it begins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^(`{3,}|~{3,}|:{3,})\s*(?:\{([\w:-]+)\}\s*(.*)|([\w-]*)\s*)$")
_OPTION = re.compile(r"^:([\w-]+):\s*(.*)$")


@dataclass(frozen=True)
class Block:
    """A piece of a chapter: ``lines[0]`` is line ``first`` of the file, counted from 1."""

    kind: str  # "text", the name of a directive ("code-cell", "dropdown"), or "fence" for a plain one
    argument: str
    options: dict[str, str]
    lines: tuple[str, ...]
    first: int

    @property
    def tags(self) -> list[str]:
        """Tags of a code cell."""
        return re.findall(r"[\w-]+", self.options.get("tags", ""))

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def blocks(source: str) -> Iterator[Block]:
    """The blocks of a chapter in their order, without its front matter; what a fence encloses stays in one block."""
    lines = source.splitlines()
    at = lines.index("---", 1) + 1 if lines[:1] == ["---"] and "---" in lines[1:] else 0
    begun = at
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is None:
            at += 1
            continue
        if begun < at:
            yield Block("text", "", {}, tuple(lines[begun:at]), begun + 1)
        close = re.compile(rf"^{fence[1][0]}{{{len(fence[1])},}}\s*$")
        end = next((n for n in range(at + 1, len(lines)) if close.match(lines[n])), len(lines))
        options, body = _options(lines, at + 1, end) if fence[2] else ({}, at + 1)
        yield Block(
            fence[2] or "fence", (fence[3] or fence[4] or "").strip(), options, tuple(lines[body:end]), body + 1
        )
        at = begun = end + 1
    if begun < len(lines):
        yield Block("text", "", {}, tuple(lines[begun:]), begun + 1)


def code_cells(source: str) -> list[Block]:
    """The code cells of a chapter."""
    return [block for block in blocks(source) if block.kind == "code-cell"]


def _options(lines: list[str], at: int, end: int) -> tuple[dict[str, str], int]:
    """Options at the head of a directive, as ``:name: value`` or between two lines of ---, and where they end."""
    options: dict[str, str] = {}
    if at < end and lines[at] == "---":
        close = next((n for n in range(at + 1, end) if lines[n] == "---"), end)
        options = {"tags": " ".join(lines[at + 1 : close])}
        at = close + 1
    while at < end and (option := _OPTION.match(lines[at])):
        options[option[1]] = option[2]
        at += 1
    while options and at < end and not lines[at].strip():
        at += 1
    return options, at
