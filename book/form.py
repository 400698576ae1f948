"""The form of a chapter, measured on its source: how much code and text, what is open, how soon a figure comes.

A chapter is an essay that runs. The aims are what ``python -m book list --form`` compares with; they are no gates: a
chapter that needs more says why in its deviations.
"""

from __future__ import annotations

import ast
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from book import blocks, chapters, files
from book.lint import COLUMN

NUMBERS = 3  # as many may stand in one paragraph: more are a table or a figure
AIMS = {"code_lines": 150, "words": 2000, "first_figure": 2.0, "wide_lines": 0, "crowded": 0}

FOLDED = {"hide-input", "hide-cell", "remove-input", "remove-cell"}  # tags of cells whose code a reader must open
READ = {"text", "margin", "admonition", "note", "tip", "caption"}  # blocks whose words stand open on the page
PICTURES = {"lead", "explore", "figure", "image", "caption"}  # directives that come with a picture, or right after one
DRAWS = re.compile(r"\b(?:plots\.figure|study\.(?:bars|curves|differences|sweep))\(")
NUMBER_ROLES = r"\{(?:glue:\w+|measured|published|setting)\}`(?!(?:data|model|split)`)"
# What fills a screen of 1280 x 900 pixels of the website (gaps and tables between included), fitted by least squares to
# where Chromium showed the first figures of 13 chapters, on screens 6 to 18; it was off by less than one screen.
CARD, WORDS_A_SCREEN, LINES_A_SCREEN, FORMULA, FOLD = 1.25, 235, 38, 0.09, 0.06


@dataclass(frozen=True)
class Form:
    """Measures of one chapter. Lines are lines with something on them."""

    code_lines: int
    open_lines: int  # of them, in cells that the page shows unfolded
    words: int  # visible ones: outside Deviations and References, folded boxes and code
    cells: int
    longest_cell: int
    first_figure: float  # screens of the page before it; infinite where there is no figure
    wide_lines: int  # lines of code that the column of the page cuts off
    crowded: int  # paragraphs with more than three numbers
    functions: int  # functions and classes that the chapter defines


def measure(slug: str) -> Form:
    """The form of a chapter's source. Raises PressError when it cannot be read."""
    source = files.read_text(chapters.chapter_path(slug))
    found = list(blocks.blocks(source))
    cells = [block for block in found if block.kind == "code-cell"]
    sizes = [_lines(cell) for cell in cells]
    read = _outside(found, {"Deviations", "References"})
    paragraphs = [p for block in read for p in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", block.text)]
    return Form(
        code_lines=sum(sizes),
        open_lines=sum(size for cell, size in zip(cells, sizes, strict=True) if not FOLDED & set(cell.tags)),
        words=sum(_words(block) for block in read),
        cells=len(cells),
        longest_cell=max(sizes, default=0),
        first_figure=_screens_before_a_figure(found),
        wide_lines=sum(len(line) > COLUMN for cell in cells for line in cell.lines),
        crowded=sum(numbers(paragraph) > NUMBERS for paragraph in paragraphs),
        functions=sum(len(definitions(cell.text)) for cell in cells),
    )


def numbers(paragraph: str) -> int:
    """How many numbers a reader meets in a paragraph: typed ones, and those that a role puts there; no formulas."""
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", " ", paragraph, flags=re.S)
    quoted = len(re.findall(NUMBER_ROLES, text))
    text = re.sub(r"\{[\w:-]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|^\s*\d+\. ", " ", text)
    return quoted + len(re.findall(r"(?<![\w.])\d[\d,.]*", text))


def definitions(code: str) -> dict[str, str]:
    """Functions and classes at the top of a cell, by name: what each does, without its name and its docstring."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return {}
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name, node.name = node.name, ""
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:]
            found[name] = ast.dump(node)
    return found


def shared_functions(slugs: Iterable[str]) -> dict[str, list[str]]:
    """Functions and classes that several chapters define, with their slugs: by name, and as `a = b` by equal bodies.

    Every chapter has a ``Setting`` of its own.
    """
    names, bodies = defaultdict(set), defaultdict(set)
    for slug in slugs:
        for cell in blocks.code_cells(files.read_text(chapters.chapter_path(slug))):
            for name, body in definitions(cell.text).items():
                if name == "Setting":
                    continue
                names[name].add(slug)
                bodies[body].add((name, slug))
    shared = {name: sorted(where) for name, where in names.items() if len(where) > 1}
    for places in bodies.values():
        called, where = {name for name, _ in places}, {slug for _, slug in places}
        if len(where) > 1 and len(called) > 1:
            shared[" = ".join(sorted(called))] = sorted(where)
    return dict(sorted(shared.items()))


def _lines(block: blocks.Block) -> int:
    return sum(bool(line.strip()) for line in block.lines)


def _outside(found: list[blocks.Block], sections: set[str]) -> list[blocks.Block]:
    """The blocks that are read, cut to what stands in other sections."""
    read, section = [], ""
    for block in found:
        if block.kind not in READ:
            continue
        kept = []
        for line in block.lines:
            if block.kind == "text" and line.startswith("## "):
                section = line.removeprefix("## ").strip()
            kept.append("" if section in sections else line)
        read.append(blocks.Block(block.kind, block.argument, block.options, tuple(kept), block.first))
    return read


def _words(block: blocks.Block) -> int:
    """Words as they are counted aloud; a formula in the line is one, a displayed one none."""
    text = re.sub(r"\$\$.*?\$\$(?: *\([\w-]+\))?", " ", block.text, flags=re.S)
    text = re.sub(r"\$[^$]*\$|\{(?!term)[\w:-]+\}`[^`]*`", " x ", text)
    text = re.sub(r"\{term\}`([^`<]*)(?:<[^`]*>)?`", r"\1", text)
    return len(re.findall(r"[^\W_][\w'’.,%-]*", re.sub(r"\]\([^)]*\)", " ", text)))


def _screens_before_a_figure(found: list[blocks.Block]) -> float:
    """Screens from the top of the page to its first figure, estimated from what stands before it."""
    screens = CARD
    for block in found:
        folded = bool(FOLDED & set(block.tags))
        code = 0 if folded else _lines(block) if block.kind in ("code-cell", "fence") else _shown(block)
        screens += code / LINES_A_SCREEN + (folded or block.kind == "dropdown") * FOLD
        if block.kind in PICTURES or (block.kind == "code-cell" and DRAWS.search(block.text)):
            return screens
        if block.kind in READ:
            screens += _words(block) / WORDS_A_SCREEN + block.text.count("$$") // 2 * FORMULA
    return math.inf


def _shown(block: blocks.Block) -> int:
    """Lines of the library that a ``{code-of}`` shows."""
    if block.kind != "code-of":
        return 0
    from book.site import source  # slow to import

    try:
        return len(source.source_of(block.argument, root=chapters.ROOT).text.splitlines())
    except LookupError:
        return 0  # the build says what is wrong with the name
