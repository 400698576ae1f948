"""The bibliography in plain words: who, when, where to read it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pybtex.database import parse_file
from pybtex.richtext import Text

from book import expressions
from book.site import press


def entry(key: str) -> Any:
    """A work of the bibliography (pybtex). Raises LookupError, with the nearest, for a key that it does not have."""
    known = _all(press.root() / "book" / "references.bib").entries
    if key not in known:
        raise LookupError(f"cited work {key!r} is not in book/references.bib; {expressions.like(key, known)}")
    return known[key]


@cache
def _all(path: Path) -> Any:
    return parse_file(path)


def short(key: str) -> tuple[str, str]:
    """Authors and year: ``("McMahan et al.", "2017")``."""
    people = _people(entry(key))
    last = [" ".join(map(str, [*one.rich_prelast_names, *one.rich_last_names])) for one in people]
    return (f"{last[0]} et al." if len(last) > 2 else " and ".join(last)), entry(key).fields["year"]


def linked(key: str, form: str) -> str:
    """A citation in Markdown, as a link to the work where the bibliography knows one; ``form`` has {who} and {year}."""
    who, year = short(key)
    text, address = form.format(who=who, year=year), _address(entry(key))
    return f"[{text}]({address})" if address else text


def reference(key: str) -> str:
    """A work in Markdown: authors, year, title as a link, where it was published."""
    work = entry(key)
    people = _people(work)
    names = [
        " ".join(map(str, [*p.rich_first_names, *p.rich_middle_names, *p.rich_prelast_names, *p.rich_last_names]))
        for p in people
    ]
    who = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
    address, name = _address(work), title(key)
    venue = next((_plain(work.fields[f]) for f in ("booktitle", "journal", "howpublished") if f in work.fields), "")
    parts = [f"{who} ({work.fields['year']})", f"[{name}]({address})" if address else name, venue]
    return ". ".join(part.rstrip(".") for part in parts if part) + "."


def title(key: str | None) -> str:
    """The title of a work in plain text; "" for none."""
    return _plain(entry(key).fields["title"]) if key else ""


def _people(work: Any) -> Any:
    return work.persons.get("author") or work.persons["editor"]


def _address(work: Any) -> str:
    doi = work.fields.get("doi")
    return str(work.fields.get("url") or (f"https://doi.org/{doi}" if doi else ""))


def _plain(latex: str) -> str:
    return " ".join(str(Text.from_latex(latex)).split())
