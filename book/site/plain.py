"""Markdown cells for notebook viewers, which know neither roles nor directives: MyST in, plain Markdown out.

What a role would show becomes text (a quoted number is taken from the outputs), what a directive would draw becomes one
line with a link to the page.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Mapping
from functools import cache
from itertools import count

import nbformat
from pybtex.database import parse_file

from book.site import executed, links, press, source

ROLE = re.compile(r"\{([a-z][a-z:-]*)\}`([^`]+)`")
DIRECTIVE = re.compile(r"^( *)(`{3,}|:{3,})\{([a-z-]+)\} *(.*)\n((?:.*\n)*?) *\2 *$", re.MULTILINE)
OPTION = re.compile(r"^:[a-z-]+:.*\n?|^---\n(?:.*\n)*?---\n", re.MULTILINE)
NUMBERED = re.compile(r"\$\$((?:[^$]|\\\$)+)\$\$ *\(([\w-]+)\)")
TARGET = re.compile(r"^\([\w-]+\)=\n", re.MULTILINE)
SPAN = re.compile(r"(?<=\])\{[.#][^}\n]*\}")
RELATIVE = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+?)\.md(#[^)\s]*)?\)")
TOLD = {"dropdown", "admonition", "margin", "note", "tip", "warning"}  # directives whose text is the reader's


class Plain:
    """The Markdown of one executed chapter in plain terms. ``site``: where the book stands, with a slash at its end."""

    def __init__(self, slug: str, notebook: nbformat.NotebookNode, site: str):
        self.page, self.site = press.document_of(slug), site
        self.quoted = quoted(notebook)
        self.numbers: dict[str, int] = {}
        places = count(1)
        for cell in markdown(notebook):
            for found in NUMBERED.finditer(cell.source):
                self.numbers[found[2]] = next(places)

    def __call__(self, text: str) -> str:
        """One cell: directives first (their text has roles, too), then what stands in a line."""
        text = self.undirected(text)
        text = NUMBERED.sub(lambda m: f"$${m[1].rstrip()} \\tag{{{self.numbers[m[2]]}}}\n$$", text)
        text = SPAN.sub("", TARGET.sub("", text))
        text = RELATIVE.sub(lambda m: f"]({self.address(m[1])}{m[2] or ''})", text)
        return ROLE.sub(self.role, text)

    def undirected(self, text: str) -> str:
        return DIRECTIVE.sub(self.directive, text)

    def directive(self, found: re.Match[str]) -> str:
        indent, name, argument, body = found[1], found[3], found[4].strip(), found[5]
        if name in TOLD:
            title = f"**{argument}**\n\n" if argument else ""
            return indent + title + self.undirected(OPTION.sub("", body)).strip()
        if name == "code-of":
            code = source.source_of(argument)
            return f"{indent}Code: [`{argument}`]({self.site}{links.page_of(code.path)}.html#{code.anchor})"
        anchor = f"#equation-{argument}" if name == "equation" else ""
        shown = {
            "equation": "code and test of the equation",
            "bibliography": "references",
            "explore": "a figure to turn",
        }
        words = f"{name} {argument}" if name == "evidence" else shown.get(name, name)
        return f"{indent}*On the page: [{words}]({self.site}{self.page}.html{anchor})*"

    def role(self, found: re.Match[str]) -> str:
        name, text = found[1], found[2]
        label, target = re.fullmatch(r"(?:(.*?)\s*<)?([^<>]*)>?", text, re.DOTALL).groups()  # type: ignore[union-attr]
        if name == "glue:text":
            return self.quoted[text.split(":")[0]]
        if name.startswith("cite"):
            works = [work(key.strip()) for key in text.split(",")]
            if name == "cite:t":
                return ", ".join(f"{who} ({year})" for who, year in works)
            return "(" + "; ".join(f"{who}, {year}" for who, year in works) + ")"
        if name == "eq":
            return f"({self.numbers[text]})" if text in self.numbers else self.elsewhere(text)
        if name == "doc":
            slug = press.slug_of(target.strip("/"))
            return f"[{label or (press.card(slug).title if slug else target)}]({self.address(target)})"
        return str(label or target)

    def elsewhere(self, equation: str) -> str:
        """A link to an equation of another chapter, whose slug its label begins with."""
        slug = max((slug for slug in press.slugs() if equation.startswith(f"{slug}-")), key=len)
        return f"[({equation})]({self.site}{press.document_of(slug)}.html#equation-{equation})"

    def address(self, target: str) -> str:
        """Of a page that a chapter names: from its own folder, or from the root of the book."""
        path = target[1:] if target.startswith("/") else posixpath.join(posixpath.dirname(self.page), target)
        return f"{self.site}{posixpath.normpath(path)}.html"


def markdown(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def quoted(notebook: nbformat.NotebookNode) -> Mapping[str, str]:
    """The texts that the run has given names, for the prose to quote."""
    outputs = [output for cell in notebook.cells for output in executed.visible(cell.get("outputs", []))]
    return {
        output.metadata.scrapbook.name: ast.literal_eval(output.data[executed.GLUED])
        for output in outputs
        if "scrapbook" in output.get("metadata", {})
    }


@cache
def work(key: str) -> tuple[str, str]:
    """Authors and year of an entry of the bibliography: ``("McMahan et al.", "2017")``."""
    entry = parse_file(press.root() / "book" / "references.bib").entries[key]
    people = entry.persons.get("author") or entry.persons["editor"]
    last = [
        " ".join(part.render_as("text") for part in [*one.rich_prelast_names, *one.rich_last_names]) for one in people
    ]
    return (f"{last[0]} et al." if len(last) > 2 else " and ".join(last)), entry.fields["year"]
