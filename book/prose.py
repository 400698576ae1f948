"""Results that were typed into a chapter's prose, where a later run would leave them wrong.

A result is a decimal number, a percentage, or a whole number with the unit of a result (points, times, rounds, kB). It
belongs to a run and stands there by ``{measured}`` or ``{setting}``, or to the paper and stands in ``{published}``. Not
looked at are code, formulas, roles, tables, directives of the card and of evidence, front matter, addresses, grids in
braces, the level of intervals, numbers of sections, figures, tables and versions, and the sections *Deviations*, *Try
it* and *References*, where settings may be typed. Words ("ten clients", "one in three") and plain whole numbers are no
results.
"""

from __future__ import annotations

import re

UNITS = "points?|percentage points|times|rounds?|seeds?|epochs?|steps?|seconds?|minutes?|kB|MB|GB|bytes"
TYPED = re.compile(
    rf"(?<![\w.,/#-])[−+-]?\d[\d,\u2009]*(?:\.\d+)?\s?(?:%|‰)"  # 68.3 %
    rf"|(?<![\w.,/#-])[−+-]?\d[\d,\u2009]*(?:\.\d+)?[\s\u00a0-](?:{UNITS})\b"  # 2 points, a 10-point lead
    rf"|(?<![\w.,/#-])[−+-]?\d+\.\d+(?![\w.]*\w|\.\d)"  # 0.53, but not 1.2.3
)
LEFT_OUT = ("Deviations", "Try it", "References")
# What a reader of prose does not take for it. Each is blanked, so that lines keep their numbers.
SILENT = (
    re.compile(r"\A---\n.*?^---$", re.MULTILINE | re.DOTALL),  # front matter
    re.compile(
        r"^(`{3,}|~{3,})(?!\{(?:dropdown|margin|admonition|note|tip|caption)\})[^\n]*\n.*?^\1[ \t]*$", re.M | re.S
    ),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"\$\$.*?\$\$(?: *\([\w-]+\))?", re.DOTALL),
    re.compile(r"(?<![\\$])\$(?!\s)[^$]+?(?<!\s)\$"),
    re.compile(r"\{[a-z][a-z:-]*\}`[^`]+`"),  # roles
    re.compile(r"(?<!`)(`{1,2})(?!`).+?\1", re.DOTALL),
    re.compile(r"^[ \t]*\|.*\|[ \t]*$", re.MULTILINE),  # rows of tables
    re.compile(r"(?<=\])\([^)\s]*\)|(?:https?://|\barXiv:)\S+"),
    re.compile(
        r"\b(?:[Ss]ections?|[Tt]ables?|[Ff]igures?|[Ff]ig\.|[Ee]quations?|[Aa]ppendix|[Vv]ersions?|[Pp]ython|[Pp]y[Tt]orch"
        r"|CC[ -]BY(?:-[A-Z]+)*|[Ll]ines?|[Pp]ages?)\s+[\d.]+(?:\s*(?:,|and|to|or|–|-)\s*\d[\d.]*)*"
    ),
    re.compile(r"^:[a-z-]+:.*$", re.MULTILINE),  # options of directives
    re.compile(r"\{[-−\d.,\s]+\}"),  # a grid, such as {0.01, 0.1, 1}
    re.compile(r"\b95\s?%(?=\s+(?:Student|[Cc]onfidence|[Ii]nterval))"),  # the level of every interval of the book
)
DEVIATIONS = re.compile(r"^(`{3,}|:{3,})\{admonition\}[^\n]*Deviations[^\n]*\n.*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)


def deviations(text: str) -> str:
    """What a chapter says under *Deviations*: the section and the boxes of that name."""
    sections = re.findall(r"^## Deviations[ \t]*$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return "\n".join([*sections, *(found.group() for found in DEVIATIONS.finditer(text))])


def typed_numbers(text: str) -> list[tuple[int, str]]:
    """Results that stand in the prose of a chapter's source, each with its line, counted from 1."""
    for silent in (DEVIATIONS, *SILENT):
        text = silent.sub(lambda found: blank(found.group()), text)
    found, section = [], ""
    for place, line in enumerate(text.split("\n"), start=1):
        if line.startswith("## "):
            section = line.removeprefix("## ").strip()
        elif section not in LEFT_OUT:
            found += [(place, hit.group().strip()) for hit in TYPED.finditer(line)]
    return found


def blank(text: str) -> str:
    """As many lines with nothing on them."""
    return " " + "\n" * text.count("\n")
