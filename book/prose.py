"""Results that were typed into a chapter's prose, where a later run would leave them wrong.

A result is a decimal number, a percentage, or a whole number with the unit of a result (points, times, rounds, kB). It
belongs to a run and stands there by ``{measured}`` or ``{setting}``, or to the paper and stands in ``{published}``. Not
looked at are code (but a decimal number alone in it), formulas, roles, tables, directives of the card and of evidence,
front matter, addresses, grids in braces, the level of intervals, numbers of sections, figures, tables and versions, and
the sections *Deviations*, *Try it* and *References*, where settings may be typed. Words ("ten clients", "one in three")
and plain whole numbers are no results, but "two points ahead" and "12 of 15" are.
"""

from __future__ import annotations

import re

UNITS = "points?|percentage points|times|rounds?|seeds?|epochs?|steps?|seconds?|minutes?|kB|MB|GB|bytes"
ALONE = r"(?<![A-Za-z0-9_.,/#-])[−+-]?"  # a Chinese character may stand right before a number
NUMBER = rf"{ALONE}\d[\d,\u2009]*(?:\.\d+)?"
COUNTS = "half an?|one|two|three|four|five|six|seven|eight|nine|ten"
THAN = "ahead|above|below|behind|better|higher|lower|more accurate"
TYPED = re.compile(
    rf"{NUMBER}\s?(?:%|‰|pp\b|percent\b|×|个百分点|轮)"  # 68.3 %, 2.1pp, 3×
    rf"|{NUMBER}[\s\u00a0-](?:{UNITS})(?![A-Za-z0-9_])"  # 2 points, a 10-point lead
    rf"|\b(?:{COUNTS})\s(?:percentage )?points? (?:{THAN})\b"  # two points ahead
    rf"|\bfactor of \d+(?:\.\d+)?"
    rf"|{ALONE}\d*\.\d+(?![A-Za-z0-9_.]*[A-Za-z0-9_]|\.\d)"  # 0.53 and .5, but not 1.2.3
    rf"|{ALONE}\d\d+ of \d\d+\b|\bfrom \d\d+ to \d\d+\b"  # 12 of 15, from 61 to 68
    rf"|{ALONE}\d+(?:\.\d+)?e[−+-]?\d+\b"  # 1e-3
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
    re.compile(r"(?<!`)(`{1,2})(?!`|[−+-]?\d*\.\d+`).+?\1", re.DOTALL),
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
