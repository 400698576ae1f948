"""Markdown cells for notebook viewers, which know neither roles nor directives: MyST in, plain Markdown out.

What a role would show becomes text, what a directive would draw becomes text or a table; what only a page can show, a
figure to turn, becomes one line with a link to it.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import count

import nbformat

from book import chapters, expressions, files, quoting
from book.site import as_markdown, evidence, executed, explore, links, press, quotes, source, works

ROLE = re.compile(r"\{([a-z][a-z:-]*)\}`([^`]+)`")
DIRECTIVE = re.compile(r"^( *)(`{3,}|:{3,})\{([a-z-]+)\} *(.*)\n((?:.*\n)*?) *\2 *$", re.MULTILINE)
OPTION = re.compile(r"^ *:([a-z-]+): *(.*)\n?", re.MULTILINE)
HEAD = re.compile(r"(?:^ *:[a-z-]+:.*\n?)+|^---\n(?:.*\n)*?---\n", re.MULTILINE)
NUMBERED = re.compile(r"\$\$((?:[^$]|\\\$)+)\$\$ *\(([\w-]+)\)")
TARGET = re.compile(r"^\([\w-]+\)=\n", re.MULTILINE)
SPAN = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\{[.#][^}\n]*\}")
RELATIVE = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+?)\.md(#[^)\s]*)?\)")
INSIDE = re.compile(r"\]\(#([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
TOLD = {"admonition", "note", "tip", "warning"}  # directives whose text is the reader's
PICTURES = {"explore": "a figure to turn", "figure": "figure", "image": "image"}  # what only the page shows
DIRECTIVES = (*TOLD, *PICTURES, "dropdown", "margin", "math", "code-of", "card", "claims", "evidence", "equation",
              "bibliography", *quoting.DIRECTIVES)  # fmt: skip
ROLES = ("glue:text", "cite", "cite:t", "cite:p", "eq", "doc", "ref", "term", *quoting.ROLES)
EMPTY = re.compile(r"(?<!`)\{([a-z][a-z:-]*)\}(?:``|`\s+`)(?!`)")
NOT_RUN = "[not run]"


class Plain:
    """The Markdown of one chapter in plain terms. ``site``: where the book stands, with a slash at its end.

    ``notebook`` has the chapter's text, and the outputs of the run that it quotes; of a ``draft`` these may lack some.
    """

    def __init__(self, slug: str, notebook: nbformat.NotebookNode, site: str, draft: bool = False):
        self.draft = draft
        self.slug, self.page, self.site = slug, press.document_of(slug), site
        self.quoted = quoted(notebook)
        self.whole = "\n\n".join(cell.source for cell in markdown(notebook))
        self.numbers = {found[2]: n for n, found in zip(count(1), NUMBERED.finditer(self.whole), strict=False)}
        self.anchors = {_slug(heading): heading.replace(" ", "-") for heading in HEADING.findall(self.whole)}
        self.measured = measured(slug, self.whole)

    def __call__(self, text: str) -> str:
        """One cell whose numbers are ``measured``: directives first (their text has roles, too), then what stands in a
        line.
        """
        text = self.undirected(text)
        text = NUMBERED.sub(lambda m: f"$${aligned(m[1].rstrip())} \\tag{{{self.numbers[m[2]]}}}\n$$", text)
        text = SPAN.sub(r"\1", TARGET.sub("", text))
        text = RELATIVE.sub(lambda m: f"]({self.address(m[1])}{m[2] or ''})", text)
        text = INSIDE.sub(lambda m: f"](#{self.anchors.get(m[1], m[1])})", text)
        if empty := EMPTY.search(text):
            raise ValueError(f"{{{empty[1]}}} is empty: expected what it is to show")
        return re.sub(r"\n{3,}", "\n\n", ROLE.sub(self.role, text)).strip("\n")

    def undirected(self, text: str) -> str:
        return DIRECTIVE.sub(self.directive, text)

    def directive(self, found: re.Match[str]) -> str:
        indent, name, argument, body = found[1], found[3], found[4].strip(), found[5]
        options, body = dict(OPTION.findall(body)), HEAD.sub("", body, count=1)
        if name == "dropdown":
            inner = self.undirected(body).strip()
            return f"{indent}<details><summary>{argument}</summary>\n\n{inner}\n\n{indent}</details>"
        if name == "margin":
            return "\n".join(f"{indent}> {line}".rstrip() for line in self.undirected(body).strip().split("\n"))
        if name in TOLD:
            title = f"**{argument}**\n\n" if argument else ""
            return indent + title + self.undirected(body).strip()
        if name == "math":
            return f"$${aligned(chr(10) + body.strip())}\n$$"
        if name == "code-of":  # within another directive; those that stand alone are cells
            return f"```python\n{source.source_of(argument).text}\n```"
        if name in ("card", "claims") and argument:
            raise ValueError(f"{{{name}}} {argument}: expected nothing behind it")
        if name == "card":
            return as_markdown.card(self.slug, works.title(press.card(self.slug).citation), self.site)
        if name == "claims":
            return as_markdown.claims(self.slug, self.site)
        if name == "evidence":
            return as_markdown.measured(self.slug, argument, options.get("metrics", "*"), self.site)
        if name == "equation":
            return indent + self.implemented(argument, options)
        if name == "bibliography":
            return self.references()
        if name not in PICTURES:
            raise ValueError(f"no directive {name!r}; {expressions.like(name, DIRECTIVES)}")
        if name == "explore":
            explore.of_chapter(body, self.slug)
        return f"{indent}*On the page: [{PICTURES[name]}]({self.site}{self.page}.html)*"

    def implemented(self, label: str, options: Mapping[str, str]) -> str:
        """What an equation is in code, where the notebook does not show it right below; "" where only tests are."""
        parts = [f"`{name}` in a cell of this notebook" for name in words(options.get("cell", ""))]
        for name in words(options.get("code", "")):
            code = source.source_of(name)
            parts.append(f"[`{name}`]({self.site}{links.page_of(code.path)}.html#{code.anchor})")
        number = self.numbers.get(label)
        return f"*In code, ({number}) is {' and '.join(parts)}.*" if parts and number else ""

    def references(self) -> str:
        """All works that the chapter cites, as a list."""
        cited = {
            key.strip() for name, keys in ROLE.findall(self.whole) if name.startswith("cite") for key in keys.split(",")
        }
        return "\n".join(f"- {text}" for text in sorted(map(works.reference, cited)))

    def role(self, found: re.Match[str]) -> str:
        name, text = found[1], found[2]
        label, target = re.fullmatch(r"(?:(.*?)\s*<)?([^<>]*)>?", text, re.DOTALL).groups()  # type: ignore[union-attr]
        if name == "glue:text":
            key = text.split(":")[0]
            return self.quoted.get(key, NOT_RUN) if self.draft else quoting.looked_up("output", key, self.quoted)
        if name.startswith("cite"):
            keys = [key.strip() for key in text.split(",")]
            if name == "cite:t":
                return ", ".join(works.linked(key, "{who} ({year})") for key in keys)
            return "(" + "; ".join(works.linked(key, "{who}, {year}") for key in keys) + ")"
        if name == "eq":
            return f"({self.numbers[text]})" if text in self.numbers else self.elsewhere(text)
        if name == "doc":
            slug = press.slug_of(target.strip("/"))
            return f"[{label or (press.card(slug).title if slug else target)}]({self.address(target)})"
        if name not in ROLES:
            raise ValueError(f"no role {name!r}; {expressions.like(name, ROLES)}")
        if name == "term" and target.lower() not in (known := glossary()):
            raise ValueError(f"no term {target!r} in book/pages/glossary.md; {expressions.like(target, known)}")
        return str(label or target)

    def elsewhere(self, equation: str) -> str:
        """A link to an equation of another chapter, whose slug its label begins with."""
        slug = max((slug for slug in press.slugs() if equation.startswith(f"{slug}-")), key=len, default=self.slug)
        whole = files.read_text(chapters.chapter_path(slug))
        known = [found[2] for found in NUMBERED.finditer(whole)]
        if equation not in known:
            raise ValueError(f"no equation {equation!r}; {expressions.like(equation, [*known, *self.numbers])}")
        return f"[({equation})]({self.site}{press.document_of(slug)}.html#equation-{equation})"

    def address(self, target: str) -> str:
        """Of a page that a chapter names: from its own folder, or from the root of the book."""
        path = target[1:] if target.startswith("/") else posixpath.join(posixpath.dirname(self.page), target)
        return f"{self.site}{posixpath.normpath(path)}.html"


def aligned(formula: str) -> str:
    """A formula of several lines in an environment of its own, as Sphinx puts it; notebooks refuse one without."""
    if not re.search(r"&|\\\\", formula) or formula.lstrip().startswith(r"\begin{aligned}"):
        return formula
    return f"\n\\begin{{aligned}}{formula}\n\\end{{aligned}}"


def _slug(heading: str) -> str:
    """The address of a heading on the website; JupyterLab takes the heading itself."""
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


@cache
def glossary() -> frozenset[str]:
    """The terms of the glossary, in small letters."""
    text = files.read_text(press.root() / "book" / "pages" / "glossary.md")
    found = re.search(r"^```\{glossary\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return frozenset(line.strip().lower() for line in (found[1] if found else "").splitlines() if line[:1].strip())


def words(text: str) -> list[str]:
    return text.replace(",", " ").split()


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


def measured(slug: str, whole: str) -> Callable[[str], str]:
    """What replaces the roles that quote the evidence in a part of the chapter whose text is ``whole``."""
    known, units, judged = quotes.evidence_of(slug, committed=True), evidence.units(slug), evidence.scales(slug)
    found = zip(press.card(slug).claims, press.best_of(slug), strict=True)
    verdicts = {
        claim.id: f"*({'; '.join(f'{p}: {seen.verdict}' for p, seen in ((one.profile, one.verdict), *one.against))})*"
        for claim, one in found
    }
    figures = quoting.figure_numbers(whole)
    return lambda text: quoting.resolve(text, known, units, verdicts=verdicts, figures=figures, judged=judged)
