"""Chapters' text in plain words: what roles and directives that quote evidence would show on the page.

Text in, text out, for notebooks and for whoever reads the sources; the website draws the same from the same functions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import yaml

from book import expressions
from book.errors import nearest
from book.expressions import NOT_RUN, Evidence

ROLES = ("measured", "setting", "published", "verdict", "figure-ref")
DIRECTIVES = ("caption", "lead", "measures")
ROLE = re.compile(rf"\{{({'|'.join(ROLES)})\}}`([^`]+)`")
DIRECTIVE = re.compile(
    rf"^(`{{3,}}|:{{3,}})\{{({'|'.join(DIRECTIVES)})\}}[ \t]*(.*)\n((?:.*\n)*?)\1[ \t]*(?:\n|\Z)", re.MULTILINE
)
FENCED = re.compile(r"^(`{3,}|~{3,}|:{3,})(?P<name>[^\n`]*)\n.*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
FIELDS = {"rows": dict, "columns": dict, "against": str, "profile": str, "caption": str}
NEVER = "–"
CHINESE = {
    "points": "个百分点",
    "times": "倍",
    "rounds": "轮",
    "round": "轮",
    "seconds": "秒",
    "steps": "步",
    "seeds": "个种子",
    "not run": "未运行",
}
WORD = re.compile(rf"(?<=[\d∞] )(?:{'|'.join(CHINESE)})\b|(?<=\[)not run(?=\])")


@dataclass(frozen=True)
class Measures:
    """A table of evidence: ``rows`` are names and keys, ``columns`` names and metrics with {} for the key."""

    rows: dict[str, str]
    columns: dict[str, str]
    against: str = ""
    profile: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Amount:
    """A cell: the mean, and the paired difference to the row that others are held against, both in words."""

    mean: str
    difference: str = ""


def measures(text: str) -> Measures:
    """Read the body of ``{measures}``, in YAML. Raises ValueError with what is wrong and what was expected."""
    try:
        body = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"the body is not YAML: {error}") from error
    if not isinstance(body, dict):
        raise ValueError("the body needs rows and columns")
    for name, content in body.items():
        if name not in FIELDS:
            raise ValueError(f"no field {name!r}.{nearest(str(name), list(FIELDS))}")
        if not isinstance(content, FIELDS[name]):
            raise ValueError(f"{name}: expected {'a mapping' if FIELDS[name] is dict else 'text'}")
    for name in ("rows", "columns"):
        if not body.get(name):
            raise ValueError(f"the field {name!r} is missing")
        body[name] = {str(shown): str(key) for shown, key in body[name].items()}
    if plain := [pattern for pattern in body["columns"].values() if "{}" not in pattern]:
        raise ValueError(f"columns: {plain[0]!r} has no {{}} for the key of a row")
    profile = body.get("profile", "")
    if profile not in ("", *expressions.PROFILES):
        raise ValueError(f"no profile {profile!r}.{nearest(profile, expressions.PROFILES)}")
    return Measures(**body)


def amounts_of(
    table: Measures,
    evidence: Mapping[str, Evidence],
    units: Mapping[str, str],
    shown: str = "quick",
    judged: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, list[Amount]] | None:
    """The cells of a table by the name of their row; None where the profile was not run.

    Raises ValueError when there is no metric in a whole row or column: its name is wrong.
    """
    profile = table.profile or shown
    content = evidence.get(profile)
    known = content["metrics"] if content else {name for one in evidence.values() for name in one["metrics"]}
    asked = {row: [column.replace("{}", key) for column in table.columns.values()] for row, key in table.rows.items()}
    for names in (*asked.values(), *zip(*asked.values(), strict=True)):
        if evidence and not any(name in known for name in names):
            raise ValueError(f"no metric {names[0]!r} at {profile}; {expressions.like(names[0], known)}")
    if content is None or content.get("held"):
        return None

    def amount(name: str, base: str) -> Amount:
        if name not in known:
            return Amount(NEVER)
        mean = expressions.measured(name, {profile: content}, units, profile, judged).text
        if not table.against or base not in known or base == name:
            return Amount(mean)
        difference = expressions.measured(f"{name} - {base}", {profile: content}, units, profile)
        return Amount(mean, difference.text)

    bases = [column.replace("{}", table.against) for column in table.columns.values()]
    return {row: [amount(n, b) for n, b in zip(names, bases, strict=True)] for row, names in asked.items()}


def figure_numbers(text: str) -> dict[str, int]:
    """Numbers of the captions of a chapter by label, in the order of the text."""
    labels = [found[3].strip() for found in DIRECTIVE.finditer(text) if found[2] == "caption"]
    return {label: place + 1 for place, label in enumerate(labels)}


def resolve(
    text: str,
    evidence: Mapping[str, Evidence],
    units: Mapping[str, str],
    *,
    verdicts: Mapping[str, str] | None = None,
    figures: Mapping[str, int] | None = None,
    shown: str = "quick",
    judged: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Markdown with the roles and directives of this module in plain words; code stays as it is.

    ``evidence``: by profile, as :func:`book.reference.evidence_for` gives it; ``shown``: the profile of numbers that
    name none. ``units``: :func:`book.expressions.all_units`; ``judged``: :func:`book.expressions.scales_of`.
    ``verdicts``: the words for each claim. ``figures``: the
    numbers of captions, where ``text`` is a part of a chapter (:func:`figure_numbers` of all of it). Raises ValueError
    for a metric, setting, claim or caption that does not exist.
    """
    numbers = figure_numbers(text) if figures is None else figures

    def role(found: re.Match[str]) -> str:
        name, content = found[1], " ".join(found[2].split())
        if name == "measured":
            return expressions.measured(content, evidence, units, shown, judged).text
        if name == "setting":
            return expressions.setting(content, evidence, shown).text
        if name == "verdict":
            return looked_up("claim", content, verdicts or {})
        return content if name == "published" else f"Figure {looked_up('caption', content, numbers)}"

    def directive(found: re.Match[str]) -> str:
        name, label, body = found[2], found[3].strip(), found[4].strip()
        if name == "lead":
            looked_up("caption", label, numbers)
            return ""
        if name == "caption":
            return f"*Figure {looked_up('caption', label, numbers)}.* {plain(body)}\n"
        table = measures(body)
        return _markdown_table(table, amounts_of(table, evidence, units, shown, judged))

    def plain(part: str) -> str:
        return ROLE.sub(role, part)

    text = DIRECTIVE.sub(directive, text)
    pieces, end = [], 0
    for block in FENCED.finditer(text):
        pieces.append(plain(text[end : block.start()]))
        inner = block.group() if not block["name"].startswith("{") or "code" in block["name"] else plain(block.group())
        pieces.append(in_chinese(inner) if "中文" in block["name"] else inner)
        end = block.end()
    return "".join([*pieces, plain(text[end:])])


def looked_up(what: str, name: str, known: Mapping[str, object]) -> str:
    """What a name stands for, as text. Raises ValueError with the names most like it."""
    if name not in known:
        raise ValueError(f"no {what} {name!r}; {expressions.like(name, known)}")
    return str(known[name])


def in_chinese(text: str) -> str:
    """Units behind numbers in Chinese: ``+2.1 points`` becomes ``+2.1 个百分点``."""
    return WORD.sub(lambda found: CHINESE[found.group()], text)


def _markdown_table(table: Measures, cells: dict[str, list[Amount]] | None) -> str:
    """A table of evidence in Markdown; a difference stands behind its mean, in brackets."""
    inner = re.sub(r"(?<!\*)\*([^*\n]+)\*(?!\*)", r"\1", table.caption)  # emphasis does not nest
    caption = f"*{inner}*\n\n" if inner else ""
    if cells is None:
        return f"{caption}{NOT_RUN}\n"
    lines = [["", *table.columns], ["---"] + ["---:"] * len(table.columns)]
    for row, found in cells.items():
        lines.append([row, *(f"{one.mean} ({one.difference})" if one.difference else one.mean for one in found)])
    return caption + "".join(f"| {' | '.join(line)} |\n" for line in lines)
